"""Detectors of mmdet3d with few channels and random weights, saved as mmdet3d saves them."""

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.nuscenes import CLASS_NAMES

CENTERPOINT = "centerpoint/centerpoint_pillar02_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
CENTERPOINT_VOXELS = "centerpoint/centerpoint_voxel01_second_secfpn_8xb4-cyclic-20e_nus-3d.py"
POINTPILLARS = "pointpillars/pointpillars_hv_fpn_sbn-all_8xb4-2x_nus-3d.py"
POINTPILLARS_CLASSES = (
    *("car", "truck", "trailer", "bus", "construction_vehicle"),
    *("bicycle", "motorcycle", "pedestrian", "traffic_cone", "barrier"),
)
SHIFT = 0.8  # [m] of the LiDAR ahead of the ego origin: one cell of CenterPoint's map


def turned_lidar(tilt: float = 0.0) -> Tensor:
    """Mounting (4, 4) of a LiDAR as in nuScenes, x right and y ahead, `SHIFT` ahead, 1.8 m up; tilted about its x."""
    pose = torch.eye(4, dtype=torch.float64)
    right, ahead, up = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64)
    cosine, sine = math.cos(tilt), math.sin(tilt)
    pose[:3, :3] = torch.stack([right, cosine * ahead + sine * up, cosine * up - sine * ahead], dim=1)
    pose[:3, 3] = torch.tensor([SHIFT, 0.0, 1.8])
    return pose


class Paths(NamedTuple):
    """Where a detector lies."""

    config: str
    checkpoint: str


def shipped(name: str) -> Any:
    """mmengine's Config of a configuration that mmdet3d ships."""
    import mmdet3d
    from mmengine.config import Config

    return Config.fromfile(Path(mmdet3d.__file__).parent / ".mim/configs" / name)


def small(name: str, change: Callable[[Any], object] | None = None) -> Any:
    """The same with few channels, of CenterPoint or PointPillars."""
    settings = shipped(name)
    model = settings.model
    if name == CENTERPOINT_VOXELS:
        middle = {
            "base_channels": 4,
            "encoder_channels": ((4, 4, 8), (8, 8, 8), (8, 8, 8), (8, 8)),
            "output_channels": 8,
        }
        model.pts_middle_encoder.update(middle)
        model.pts_backbone.update(in_channels=16, layer_nums=[1, 1], out_channels=[8, 8])
        model.pts_neck.update(in_channels=[8, 8], out_channels=[8, 8])
        model.pts_bbox_head.update(in_channels=16, share_conv_channel=8)
        model.pts_bbox_head.bbox_coder.max_num = 60
        return settings
    model.pts_voxel_encoder.feat_channels = [8]
    model.pts_middle_encoder.in_channels = 8
    model.pts_backbone.update(in_channels=8, layer_nums=[1, 1, 1], out_channels=[8, 8, 16])
    model.pts_neck.in_channels = [8, 8, 16]
    if name == CENTERPOINT:
        model.pts_neck.out_channels = [8, 8, 8]
        model.pts_bbox_head.update(in_channels=24, share_conv_channel=8)
        model.pts_bbox_head.bbox_coder.max_num = 60  # of a task; random weights find everything everywhere
    else:
        model.pts_neck.out_channels = 16
        model.pts_bbox_head.update(in_channels=16, feat_channels=16)
        model.test_cfg.pts.nms_pre = 20  # of a level
    if change is not None:
        change(settings)
    return settings


def save_detector(folder: Path, settings: Any, *, classes: tuple[str, ...] | None) -> Paths:
    """Write the configuration, and random weights with all that mmengine puts beside them; returns both paths."""
    import mmdet3d.models  # noqa: F401 (registers the parts of detectors)
    from mmdet3d.registry import MODELS
    from mmengine.logging import HistoryBuffer
    from mmengine.registry import DefaultScope
    from mmengine.runner import save_checkpoint

    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet3d"):
        detector = MODELS.build(settings.copy().model)
    for module in detector.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_(0.0, 0.1)
    meta: dict[str, Any] = {"epoch": 20, "iter": np.int64(3), "mmengine_version": "0.10.7"}
    if classes is not None:
        meta["dataset_meta"] = {"classes": classes, "version": "v1.0-trainval", "palette": [(0, 0, 0)] * 10}
    content = {
        "meta": meta,
        "state_dict": detector.state_dict(),
        "message_hub": {"log_scalars": {"train/loss": HistoryBuffer([2.0, 1.0], [1, 1])}, "runtime_info": {}},
    }
    settings.dump(folder / "detector.py")
    save_checkpoint(content, str(folder / "detector.pth"))
    return Paths(config=str(folder / "detector.py"), checkpoint=str(folder / "detector.pth"))


@pytest.fixture(scope="session")
def make_detector(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Paths]:
    """Makes a small detector, of changed settings if wanted; returns the paths of its configuration and checkpoint."""

    def make(
        name: str = CENTERPOINT,
        *,
        change: Callable[[Any], object] | None = None,
        classes: tuple[str, ...] | None = CLASS_NAMES,
    ) -> Paths:
        return save_detector(tmp_path_factory.mktemp("detector"), small(name, change), classes=classes)

    return make


@pytest.fixture(scope="session")
def save_shipped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Paths]:
    """Makes a detector just as mmdet3d ships it."""
    return lambda name: save_detector(tmp_path_factory.mktemp("shipped"), shipped(name), classes=None)


@pytest.fixture(scope="session")
def centerpoint(make_detector: Callable[..., Paths]) -> Paths:
    """A small CenterPoint."""
    return make_detector()


@pytest.fixture(scope="session")
def voxels(make_detector: Callable[..., Paths]) -> Paths:
    """A small CenterPoint on voxels, with sparse 3D convolutions."""
    if importlib.util.find_spec("spconv") is None and not torch.cuda.is_available():
        pytest.skip("sparse convolutions need spconv or a CUDA device: make setup-mmdet3d")
    return make_detector(CENTERPOINT_VOXELS)


@pytest.fixture(scope="session")
def pointpillars(make_detector: Callable[..., Paths]) -> Paths:
    """A small PointPillars, whose classes have an order of their own."""
    return make_detector(POINTPILLARS, classes=POINTPILLARS_CLASSES)


@pytest.fixture(scope="session")
def mounting() -> Callable[..., Tensor]:
    """Makes the mounting of a LiDAR, see `turned_lidar`."""
    return turned_lidar


@pytest.fixture
def cloud() -> Tensor:
    """Points (P, 5) in the ego frame."""
    generator = torch.Generator().manual_seed(1)
    unit = torch.rand(4000, 5, generator=generator)
    return unit * torch.tensor([80.0, 80, 3, 1, 0.4]) - torch.tensor([40.0, 40, 0, 0, 0])

"""Detectors of mmdet3d that cannot be a teacher, and checkpoints that do not belong to them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.teacher.mmdet3d import load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig, facts_of

pytestmark = pytest.mark.mmdet3d

SHIPPED = {  # configurations of mmdet3d that are refused, and why
    "pointpillars/pointpillars_hv_secfpn_8xb6-160e_kitti-3d-3class.py": "does not surround the sensor",
    "second/second_hv_secfpn_8xb6-80e_kitti-3d-3class.py": "does not surround the sensor",
    "pointpillars/pointpillars_hv_secfpn_sbn-all_16xb2-2x_waymo-3d-3class.py": "reads column 4 of one sweep",
    "pointpillars/pointpillars_hv_fpn_sbn-all_8xb2-2x_lyft-3d.py": "its classes are car, truck, bus, emergency_vehicle",
    "parta2/parta2_hv_secfpn_8xb2-cyclic-80e_kitti-3d-3class.py": "it has no bbox_head",
    "pv_rcnn/pv_rcnn_8xb2-80e_kitti-3d-3class.py": "it has no bbox_head",
    "mvxnet/mvxnet_fpn_dv_second_secfpn_8xb2-80e_kitti-3d-3class.py": "it needs camera images",
    "3dssd/3dssd_4xb4_kitti-3d-car.py": "it has no neck",
    "votenet/votenet_8xb8_scannet-3d.py": "it has no neck",
    "fcos3d/fcos3d_r101-caffe-dcn_fpn_head-gn_8xb2-1x_nus-mono3d.py": "makes no pillars or voxels",
}


def configs() -> Path:
    import mmdet3d

    return Path(mmdet3d.__file__).parent / ".mim/configs"


def shipped(name: str) -> dict[str, Any]:
    from mmengine.config import Config

    content: dict[str, Any] = Config.fromfile(configs() / name).to_dict()
    return content


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configuration_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=SHIPPED[name]):
        facts_of(shipped(name), name)


def test_lidar_detectors_for_nuscenes_fit_and_no_others() -> None:
    """Of all that mmdet3d ships; one file of it names a base that is not there."""
    fitting, refusals = [], {}
    for path in sorted(configs().rglob("*.py")):
        name = str(path.relative_to(configs()))
        if name.startswith("_base_") or name.startswith("mvfcos3d/multiview-fcos3d_r101-dcn_centerhead"):
            continue
        try:
            facts = facts_of(shipped(name), name)
        except ValueError as error:
            refusals[name] = str(error)
        else:
            assert facts.num_sweeps == (9 if name.startswith("centerpoint") else 10)
            assert sorted(facts.class_names) == sorted(CLASS_NAMES)
            assert facts.voxels.x_max == -facts.voxels.x_min >= 50.0
            fitting.append(name)
    assert all("nus-3d" in name for name in fitting)
    assert not any("nus-3d" in name for name in refusals)
    assert not any("\n" in message for message in refusals.values())
    assert len(fitting) == 30


def refused(config: str, checkpoint: str | Path, *, grid: BevGrid | None = None) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_mmdet3d_teacher(Mmdet3dConfig(config=config), checkpoint, grid=grid)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestCheckpoint:
    def test_of_another_detector(self, centerpoint: Any, pointpillars: Any) -> None:
        message = refused(centerpoint.config, pointpillars.checkpoint)
        assert "its checkpoint has the classes car, truck, trailer" in message

    def test_of_another_architecture(self, centerpoint: Any, tmp_path: Path) -> None:
        content = torch.load(centerpoint.checkpoint, weights_only=False)
        for name in [name for name in content["state_dict"] if "task_heads.5" in name]:
            del content["state_dict"][name]
        torch.save(content, tmp_path / "five.pth")
        message = refused(centerpoint.config, tmp_path / "five.pth")
        assert "five.pth holds other weights than" in message
        assert "tensors are missing (first: pts_bbox_head.task_heads.5" in message

    def test_with_other_channels(self, make_detector: Callable[..., Any], centerpoint: Any) -> None:
        wider = make_detector(change=lambda settings: settings.model.pts_bbox_head.update(share_conv_channel=16))
        message = refused(centerpoint.config, wider.checkpoint)
        assert "size mismatch for pts_bbox_head.shared_conv.conv.weight" in message

    def test_of_an_old_version_names_its_classes_elsewhere(self, centerpoint: Any, tmp_path: Path) -> None:
        content = torch.load(centerpoint.checkpoint, weights_only=False)
        content["meta"] = {"CLASSES": CLASS_NAMES[::-1]}
        torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
        assert "its checkpoint has the classes traffic_cone" in refused(centerpoint.config, tmp_path / "old.pth")


class TestConfiguration:
    def test_that_is_not_there(self, centerpoint: Any) -> None:
        message = refused("centerpoint/none.py", centerpoint.checkpoint)
        assert message.startswith("there is no mmdet3d configuration centerpoint/none.py; give a file, or a path in")

    def test_that_is_none(self, centerpoint: Any, tmp_path: Path) -> None:
        (tmp_path / "broken.py").write_text("model = dict(\n")
        assert "broken.py is not a configuration of mmdet3d (" in refused(
            str(tmp_path / "broken.py"), centerpoint.checkpoint
        )

    def test_with_unknown_parts(self, make_detector: Callable[..., Any], centerpoint: Any, tmp_path: Path) -> None:
        text = Path(centerpoint.config).read_text().replace("type='SECONDFPN'", "type='NoSuchNeck'")
        (tmp_path / "unknown.py").write_text(text)
        message = refused(str(tmp_path / "unknown.py"), centerpoint.checkpoint)
        assert "needs the module NoSuchNeck, which mmdet3d does not have" in message


class TestMap:
    @pytest.mark.parametrize(
        ("grid", "gap"), [({"x_max": 58.0}, "5.6"), ({"y_min": -60.0}, "8.4"), ({"x_min": -70, "x_max": -60}, "19.6")]
    )
    def test_range_that_ends_inside_the_grid(
        self, centerpoint: Any, mounting: Callable[..., Tensor], cloud: Tensor, grid: dict[str, float], gap: str
    ) -> None:
        teacher = load_mmdet3d_teacher(
            Mmdet3dConfig(config=centerpoint.config), centerpoint.checkpoint, grid=BevGrid(**grid)
        )
        with pytest.raises(ValueError, match=rf"ends {gap} m inside the grid; make student.grid smaller"):
            teacher([cloud], mounting()[None])

    def test_map_of_another_stride_than_its_head_counts_on(
        self, make_detector: Callable[..., Any], mounting: Callable[..., Tensor], cloud: Tensor
    ) -> None:
        detector = make_detector(
            change=lambda settings: settings.model.pts_neck.update(upsample_strides=[1, 2, 4])  # 256 cells for 128
        )
        teacher = load_mmdet3d_teacher(Mmdet3dConfig(config=detector.config), detector.checkpoint)
        with pytest.raises(ValueError, match=r"has 24 channels and \(256, 256\) cells, but its head takes 24 channels"):
            teacher([cloud], mounting()[None])

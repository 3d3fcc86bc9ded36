"""What is read from, and refused in, a configuration of mmdet3d; without mmdet3d."""

import importlib.util
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.cli.commands import main
from training.teacher.mmdet3d import build_failure
from training.teacher.mmdet3d_config import Mmdet3dConfig, facts_of
from training.weights.foreign import read_foreign_checkpoint

Change = Callable[[dict[str, Any]], Any]

CENTERPOINT: dict[str, Any] = {  # range and voxels differ along x and y, so that a mix-up of the axes shows
    "model": {
        "data_preprocessor": {
            "voxel": True,
            "voxel_layer": {"point_cloud_range": [-40.0, -30.0, -5.0, 40.0, 30.0, 3.0], "voxel_size": [0.2, 0.25, 8]},
        },
        "pts_voxel_encoder": {"in_channels": 5, "voxel_size": [0.2, 0.25, 8], "point_cloud_range": [-40, -30, -5]},
        "pts_middle_encoder": {"output_shape": (240, 400)},
        "pts_neck": {"out_channels": [8]},
        "pts_bbox_head": {
            "tasks": [{"class_names": ["car"]}, {"class_names": list(CLASS_NAMES[1:])}],
            "bbox_coder": {"pc_range": [-40.0, -30.0], "voxel_size": [0.2, 0.25], "out_size_factor": 4},
        },
    },
    "test_dataloader": {
        "dataset": {
            "metainfo": {"classes": list(CLASS_NAMES)},
            "pipeline": [
                {"type": "LoadPointsFromFile", "load_dim": 5, "use_dim": 5},
                {"type": "LoadPointsFromMultiSweeps", "sweeps_num": 9, "use_dim": [0, 1, 2, 3, 4]},
            ],
        }
    },
}


def pipeline_of(config: dict[str, Any]) -> list[dict[str, Any]]:
    pipeline: list[dict[str, Any]] = config["test_dataloader"]["dataset"]["pipeline"]
    return pipeline


class TestFacts:
    def test_of_a_centerpoint(self) -> None:
        facts = facts_of(CENTERPOINT, "config.py")
        assert (facts.voxels.rows, facts.voxels.cols) == (240, 400)
        assert facts.voxels.cell_size == pytest.approx((0.2, 0.25))
        assert facts.head_stride == 4
        assert facts.columns == (0, 1, 2, 3, 4)
        assert facts.num_sweeps == 9
        assert facts.class_names == CLASS_NAMES

    def test_defaults_of_the_sweep_loader_leave_out_intensity(self) -> None:
        config = deepcopy(CENTERPOINT)
        pipeline_of(config)[1] = {"type": "LoadPointsFromMultiSweeps"}
        config["model"]["pts_voxel_encoder"]["in_channels"] = 4
        facts = facts_of(config, "config.py")
        assert facts.columns == (0, 1, 2, 4)
        assert facts.num_sweeps == 10

    def test_key_frame_alone(self) -> None:
        config = deepcopy(CENTERPOINT)
        pipeline_of(config)[:] = [{"type": "LoadPointsFromFile", "load_dim": 5, "use_dim": 4}]
        config["model"]["pts_voxel_encoder"]["in_channels"] = 4
        facts = facts_of(config, "config.py")
        assert facts.columns == (0, 1, 2, 3)
        assert facts.num_sweeps == 0

    def test_classes_of_the_checkpoint_stand_in_for_those_of_the_data_set(self) -> None:
        config = deepcopy(CENTERPOINT)
        config["model"]["pts_bbox_head"].pop("tasks")
        config["test_dataloader"]["dataset"].pop("metainfo")
        order = CLASS_NAMES[::-1]
        assert facts_of(config, "config.py", trained_classes=order).class_names == order


def voxel_layer(config: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = config["model"]["data_preprocessor"]["voxel_layer"]
    return layer


REFUSED: dict[str, tuple[Change, str]] = {
    "without a neck": (lambda c: c["model"].pop("pts_neck"), "it has no neck; choose a one-stage detector"),
    "two stages": (lambda c: c["model"].pop("pts_bbox_head"), "it has no bbox_head"),
    "with images": (lambda c: c["model"].update(img_backbone={"type": "ResNet"}), "it needs camera images"),
    "no model": (lambda c: c.pop("model"), "it has no 'model'"),
    "points as they are": (
        lambda c: c["model"]["data_preprocessor"].update(voxel=False),
        "it makes no pillars or voxels, so it has no BEV map",
    ),
    "polar voxels": (
        lambda c: c["model"]["data_preprocessor"].update(voxel_type="cylindrical"),
        "it makes no pillars or voxels",
    ),
    "ahead only": (
        lambda c: voxel_layer(c).update(point_cloud_range=[0, -40, -3, 70.4, 40, 1]),
        r"its range x 0.0...70.4 m, y -40.0...40.0 m does not surround the sensor",
    ),
    "another range in the head": (
        lambda c: c["model"]["pts_bbox_head"]["bbox_coder"].update(pc_range=[-40.0, -40.0]),
        r"pc_range of its bbox_coder begins with \[-40.0, -40.0\], but its voxel_layer says \[-40.0, -30.0\]",
    ),
    "other voxels in the encoder": (
        lambda c: c["model"]["pts_voxel_encoder"].update(voxel_size=(0.25, 0.2, 8)),
        r"voxel_size of its voxel_encoder begins with \[0.25, 0.2\]",
    ),
    "rows and columns mixed up": (
        lambda c: c["model"]["pts_middle_encoder"].update(output_shape=(400, 240)),
        r"draws a map of \(400, 240\) voxels, but its range holds \(240, 400\)",
    ),
    "voxels of another size": (
        lambda c: c["model"].update(pts_middle_encoder={"sparse_shape": [41, 240, 408]}),
        r"draws a map of \(240, 408\) voxels",
    ),
    "no velocity": (
        lambda c: c["model"]["pts_bbox_head"].update(bbox_coder={"type": "DeltaXYZWLHRBBoxCoder"}),
        "its boxes have 7 numbers, but 9 are needed, with a velocity",
    ),
    "columns": (
        lambda c: c["model"]["pts_voxel_encoder"].update(in_channels=4),
        "gives points of 5 columns, but its voxel_encoder takes 4",
    ),
    "ring": (lambda c: pipeline_of(c).pop(), "it reads column 4 of one sweep"),
    "more columns": (
        lambda c: pipeline_of(c)[1].update(use_dim=[0, 1, 2, 5]),
        r"it reads the columns \[0, 1, 2, 5\], but our points have \[x y z intensity lag\]",
    ),
    "squashed intensity": (
        lambda c: pipeline_of(c)[0].update(norm_intensity=True),
        "its points are loaded with norm_intensity, which ours are not",
    ),
    "no points": (lambda c: pipeline_of(c).pop(0), "its test pipeline loads no points"),
    "other classes": (
        lambda c: (
            c["model"]["pts_bbox_head"].pop("tasks"),
            c["test_dataloader"]["dataset"].update(metainfo={"classes": ["Pedestrian", "Cyclist", "Car"]}),
        ),
        "its classes are Pedestrian, Cyclist, Car, but the ten of nuScenes are needed",
    ),
    "another order in the head": (
        lambda c: c["model"]["pts_bbox_head"]["tasks"].reverse(),
        "its data set has the classes car, truck.*, but its head truck, .* car; give the configuration",
    ),
    "no classes": (
        lambda c: (c["model"]["pts_bbox_head"].pop("tasks"), c["test_dataloader"]["dataset"].pop("metainfo")),
        "neither its configuration .* nor its checkpoint names its classes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(name: str) -> None:
    change, message = REFUSED[name]
    config = deepcopy(CENTERPOINT)
    change(config)
    with pytest.raises(ValueError, match=rf"^config\.py can't be a teacher: .*{message}") as caught:
        facts_of(config, "config.py")
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_class_order_is_refused() -> None:
    with pytest.raises(ValueError, match=r"its checkpoint has the classes traffic_cone, .*, but its data set car"):
        facts_of(CENTERPOINT, "config.py", trained_classes=CLASS_NAMES[::-1])


def test_settings() -> None:
    with pytest.raises(ValueError, match="num_queries must be at least 1, but is 0"):
        Mmdet3dConfig(num_queries=0)


@pytest.mark.skipif(importlib.util.find_spec("mmdet3d") is not None, reason="mmdet3d is installed")
def test_without_mmdet3d_one_line_says_how_to_install_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--source=centerpoint.pth", "--mmdet3d.config=centerpoint.py"]) == 1
    expected = "the teacher centerpoint.py needs mmdet3d, which is not installed; run make setup-mmdet3d"
    assert capsys.readouterr().err.strip() == f"bevdistill: {expected}"


class Unpickled:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "code ran")


class TestForeignCheckpoint:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_numbers_of_numpy_do_no_harm(self, tmp_path: Path, zipped: bool) -> None:
        meta = {"epoch": np.int64(20), "losses": np.ones(3), "dataset_meta": {"classes": CLASS_NAMES}}
        path = tmp_path / "foreign.pth"
        torch.save({"meta": meta, "state_dict": {"weight": torch.ones(2)}}, path, _use_new_zipfile_serialization=zipped)
        content = read_foreign_checkpoint(path)
        assert torch.equal(content["state_dict"]["weight"], torch.ones(2))
        assert content["meta"]["dataset_meta"]["classes"] == CLASS_NAMES
        assert not isinstance(content["meta"]["epoch"], np.generic)

    def test_no_code_runs(self, tmp_path: Path) -> None:
        path = tmp_path / "evil.pth"
        torch.save({"state_dict": {"weight": torch.ones(2)}, "extra": Unpickled(tmp_path / "proof")}, path)
        with pytest.raises(ValueError, match=r"evil\.pth holds objects of pathlib\..*; save the weights alone"):
            read_foreign_checkpoint(path)
        assert not (tmp_path / "proof").exists()

    @pytest.mark.parametrize("content", [[1], {"model": {}}, {"state_dict": {"weight": 1.0}}])
    def test_without_weights(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=r"other\.pth holds no weights under 'state_dict'"):
            read_foreign_checkpoint(tmp_path / "other.pth")

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
        with pytest.raises(ValueError, match=r"cut\.pth is damaged"):
            read_foreign_checkpoint(tmp_path / "cut.pth")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no checkpoint at .*none\.pth"):
            read_foreign_checkpoint(tmp_path / "none.pth")


def test_a_module_that_mmdet3d_lacks_is_named() -> None:
    """As mmengine's registries report it; other failures are passed on."""
    unknown = KeyError("'ObjDGCNN_DV is not in the mmdet3d::model registry. Please check whether the value of ...'")
    message = build_failure(unknown, "teacher.py")
    assert message.startswith("teacher.py needs the module ObjDGCNN_DV, which mmdet3d does not have; register it")
    assert "custom_imports" in message
    other = build_failure(TypeError("in_channels must be an int"), "teacher.py")
    assert other == "mmdet3d can't build the detector of teacher.py (TypeError: in_channels must be an int)"

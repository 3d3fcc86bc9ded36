"""Worlds for a vehicle's own cameras, before it is built: three cameras of two sizes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.inference.bundle import load_bundle
from training.data.index.load import DataConfig, load_index
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import ExportConfig, run_export
from training.run.fit import fit
from training.synth.config import SynthConfig
from training.synth.rig import cameras_of
from training.synth.writer import run_synth, write_world

RIG: dict[str, Any] = {
    "image_size": [54, 72],
    "cameras": [
        {
            "name": "front",
            "intrinsics": [[57.0, 0.0, 35.5], [0.0, 57.0, 26.5], [0.0, 0.0, 1.0]],
            "ego_from_camera": [[0, 0, 1, 1.6], [-1, 0, 0, 0.0], [0, -1, 0, 1.4], [0, 0, 0, 1]],
        },
        {
            "name": "left",
            "image_size": [64, 48],
            "intrinsics": [[35.0, 0.0, 23.5], [0.0, 35.0, 31.5], [0.0, 0.0, 1.0]],
            "ego_from_camera": [[1, 0, 0, 1.0], [0, 0, 1, 0.8], [0, -1, 0, 1.7], [0, 0, 0, 1]],
        },
        {
            "name": "right-1",
            "intrinsics": [[57.0, 0.0, 35.5], [0.0, 57.0, 26.5], [0.0, 0.0, 1.0]],
            "ego_from_camera": [[-1, 0, 0, 1.0], [0, 0, -1, -0.8], [0, -1, 0, 1.7], [0, 0, 0, 1]],
        },
    ],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> SynthConfig:
    folder = tmp_path_factory.mktemp("own")
    (folder / "rig.yaml").write_text(yaml.safe_dump(RIG))
    config = SynthConfig(
        root=folder / "world",
        rig=folder / "rig.yaml",
        num_train_scenes=1,
        num_tune_scenes=0,
        num_val_scenes=1,
        frames_per_scene=2,
        lidar_columns=120,
        num_workers=1,
    )
    write_world(config, progress=False)
    return config


def test_each_camera_has_its_images_and_its_calibration(world: SynthConfig) -> None:
    index = load_index(DataConfig(root=world.root, version=world.version, num_sweeps=0))
    assert index.cameras == ("front", "left", "right-1")
    rig = VehicleRig.from_dict(RIG)
    assert index.sizes_of(0, [0, 1, 2]) == list(rig.image_sizes)
    np.testing.assert_allclose(index.intrinsics[0], rig.intrinsics.numpy())
    np.testing.assert_allclose(index.mountings_of(0, [0, 1, 2]), rig.ego_from_camera.numpy(), atol=1e-9)
    for column, size in enumerate(rig.image_sizes):
        image = cv2.imread(str(world.root / index.camera_files[0, column].decode()))
        assert image.shape == (*size, 3)
        assert image[: size[0] // 4].mean() > image[-size[0] // 4 :].mean() - 60  # sky above, road below
        assert image.std() > 10


def test_a_student_learns_of_it_and_is_scored(world: SynthConfig, make_run: Callable[..., Any], tmp_path: Path) -> None:
    changes = {
        "data.root": str(world.root),
        "data.version": world.version,
        "data.train_split": "synth_train",
        "data.val_split": "synth_val",
        "data.num_sweeps": 0,
        "student.cameras": ["front", "left", "right-1"],
        "optim.steps": 1,
    }
    checkpoint = fit(make_run(tmp_path / "run", **changes))
    run_export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "bundle")))
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.rig.names == ("front", "left", "right-1")
    assert manifest.student.image_fit == "horizon"
    data = DataConfig(root=world.root, version=world.version, val_split="synth_val", num_sweeps=0)
    config = EvaluateConfig(
        source=str(tmp_path / "bundle"), data=data, output=str(tmp_path / "scored"), num_workers=0, progress=False
    )
    assert evaluate(config).num_samples == 2


def test_images_may_be_drawn_smaller() -> None:
    front = cameras_of(VehicleRig.from_dict(RIG), scale=0.5)[0]
    assert (front.height, front.width) == (27, 36)
    expected = [[28.5, 0.0, 0.5 * 36.0 - 0.5], [0.0, 28.5, 0.5 * 27.0 - 0.5], [0.0, 0.0, 1.0]]
    np.testing.assert_allclose(front.intrinsics, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "../front"}, "can't be that of a folder"),
        ({"name": "LIDAR_TOP"}, "can't be that of a folder"),
        ({"ego_from_camera": (2 * np.eye(4)).tolist()}, "front is not a rigid mounting"),
        ({"image_size": [9000, 9000]}, "images of front are 9000x9000, too large"),
    ],
)
def test_a_rig_that_cannot_be_drawn_leaves_nothing(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    rig = json.loads(json.dumps(RIG))
    rig["cameras"][0] |= changes
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig))
    with pytest.raises(ValueError, match=message):
        write_world(SynthConfig(root=tmp_path / "world", rig=tmp_path / "rig.yaml"), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["rig.yaml"]


def test_a_missing_rig_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rig .*nowhere\.yaml"):
        run_synth(replace(SynthConfig(), root=tmp_path / "world", rig=tmp_path / "nowhere.yaml"))

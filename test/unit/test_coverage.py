"""Cameras of a data set of which a student sees too little are refused or warned of, with figures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bevdistill_ros.model.config import StudentConfig
from training.data.coverage import check_coverage, split_coverage
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.export.run import ExportConfig, run_export
from training.run.fit import fit


@pytest.fixture
def portraits(tiny_world: Any, tmp_path: Path) -> NuScenesIndex:
    """The tiny world whose cameras say that they are portraits, with the horizon in the middle."""
    index = load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))
    sizes, intrinsics = index.camera_sizes.copy(), index.intrinsics.copy()
    sizes[..., :] = (160, 120)
    intrinsics[..., :, :] = [[90.0, 0.0, 59.5], [0.0, 90.0, 79.5], [0.0, 0.0, 1.0]]
    object.__setattr__(index, "camera_sizes", sizes)
    object.__setattr__(index, "intrinsics", intrinsics)
    return index


def student(**changes: Any) -> StudentConfig:
    return StudentConfig(**{"cameras": ("CAM_FRONT",), "image_height": 64, "image_width": 128, **changes})


def test_a_student_that_misses_most_of_a_camera_is_refused(portraits: NuScenesIndex) -> None:
    old = student(image_fit="top", image_height=32)
    message = (
        r"the network sees \d+% of the objects 3 to 50 m away that CAM_FRONT shows \(120x160 scaled to 128x171, rows"
    )
    with pytest.raises(ValueError, match=message):
        check_coverage(portraits, "tiny_train", old, refuse=True)


def test_where_it_is_not_refused_it_is_logged(portraits: NuScenesIndex, caplog: pytest.LogCaptureFixture) -> None:
    check_coverage(portraits, "tiny_train", student(image_fit="top", image_height=32), refuse=False)
    assert "retrain with --student.image_fit horizon" in caplog.text


def test_the_crop_by_the_horizon_is_fine(portraits: NuScenesIndex, caplog: pytest.LogCaptureFixture) -> None:
    check_coverage(portraits, "tiny_train", student(), refuse=True)
    assert not caplog.text
    (found,) = split_coverage(portraits, "tiny_train", student())
    assert found.share > 0.9
    assert 0 < found.horizon < 32


def test_training_is_refused_before_its_first_step(
    make_run: Callable[..., Any], tiny_world: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Tables whose road is a narrow band at the top of the images, which the old fit cuts off."""
    root = tmp_path / "world"
    root.mkdir()
    for name in ("samples", "sweeps", "maps"):
        if (tiny_world.root / name).exists():
            (root / name).symlink_to(tiny_world.root / name)
    folder = root / tiny_world.version
    folder.mkdir()
    for table in (tiny_world.root / tiny_world.version).glob("*.json"):
        rows = json.loads(table.read_text())
        if table.name == "calibrated_sensor.json":
            for row in rows:
                if row["camera_intrinsic"]:
                    matrix = np.array(row["camera_intrinsic"])
                    matrix[:2] *= 3.0  # so that the road is a narrow band
                    matrix[1, 2] = 5.0
                    row["camera_intrinsic"] = matrix.tolist()
        (folder / table.name).write_text(json.dumps(rows))
    changes = {"data.root": str(root), "student.image_fit": "top", "student.image_height": 16}
    with pytest.raises(ValueError, match=r"retrain with --student\.image_fit horizon"):
        fit(make_run(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()
    checkpoint = fit(make_run(tmp_path / "run", **{**changes, "student.image_fit": "pad"}))
    run_export(ExportConfig(checkpoint=str(checkpoint), output=str(tmp_path / "bundle")))

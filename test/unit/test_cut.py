"""Cutting the scenes of a database in time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.model.fit import ImageTarget
from training.data.cut import CutConfig, cut, run_cut
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index


def settings(tiny: Any, output: Path, frames: int = 2) -> CutConfig:
    return CutConfig(root=tiny.root, version=tiny.version, output=output, frames=frames)


def test_a_scene_becomes_two(tiny: Any, tmp_path: Path) -> None:
    assert "splits cut_train and cut_val" in run_cut(settings(tiny, tmp_path / "cut"))
    before = load_index(DataConfig(root=tiny.root, version=tiny.version))
    after = load_index(DataConfig(root=tmp_path / "cut", version=tiny.version))
    tokens = {split: [after.token(sample) for sample in after.samples_of(split)] for split in ("cut_train", "cut_val")}
    assert tokens["cut_train"] == ["scene-drive-0", "scene-drive-1", "scene-stand-0", "scene-empty-0"]
    assert tokens["cut_val"] == ["scene-drive-2"]
    # A temporal student starts again, but boxes, velocities and sweeps are those of the whole recording.
    assert after.previous.tolist() == [-1, 0, -1, -1, -1]
    for name in ("boxes", "labels", "velocity_known", "sweep_lags", "global_from_ego"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_images_and_points_are_those_of_the_database(tiny: Any, tmp_path: Path) -> None:
    cut(settings(tiny, tmp_path / "cut"))
    index = load_index(DataConfig(root=tmp_path / "cut", version=tiny.version))
    sample = NuScenesDataset(
        index, "cut_train", cameras=["CAM_FRONT"], target=ImageTarget(height=36, width=64), num_sweeps=1
    )[1]
    assert sample.cameras.images.float().mean() > 50
    assert len(sample.points) == 8
    assert (tmp_path / "cut" / "samples").is_symlink()


def test_the_devkit_reads_it(tiny: Any, tmp_path: Path) -> None:
    cut(settings(tiny, tmp_path / "cut"))
    nusc = NuScenes(tiny.version, str(tmp_path / "cut"), verbose=False)
    assert [(scene["name"], scene["nbr_samples"]) for scene in nusc.scene] == [
        ("scene-drive-train", 2),
        ("scene-drive-val", 1),
        ("scene-stand-train", 1),
        ("scene-empty-train", 1),
    ]
    for scene in nusc.scene:
        first, last = (nusc.get("sample", scene[f"{end}_sample_token"]) for end in ("first", "last"))
        assert (first["prev"], last["next"]) == ("", "")


def test_mistakes(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no scene of .* has more than 3 key frames"):
        cut(settings(tiny, tmp_path / "cut", frames=3))
    with pytest.raises(ValueError, match="exists already"):
        cut(settings(tiny, tiny.root))
    with pytest.raises(ValueError, match="frames must be at least 1"):
        settings(tiny, tmp_path / "cut", frames=0)
    with pytest.raises(ValueError, match="there is no data set"):
        cut(CutConfig(root=tmp_path / "none", version="v1.0-mini", output=tmp_path / "cut", frames=1))
    assert not (tmp_path / "cut").exists()


def test_a_full_disk_leaves_nothing(tiny: Any, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    before = sorted(tmp_path.iterdir())
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"^cannot write .*/cut: File too large; free space"):
        cut(settings(tiny, tmp_path / "cut"))
    assert sorted(tmp_path.iterdir()) == before

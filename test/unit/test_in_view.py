"""The score of what cameras show, beside the official one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.core.records import Detections
from bevdistill_ros.model.fit import ImageTarget
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.data.visibility import boxes_in_view
from training.evaluate.in_view import CameraView
from training.evaluate.metrics import Metrics, evaluate_detections
from training.evaluate.run import IN_VIEW, EvaluateConfig, run_evaluate


@pytest.fixture
def front(tiny_world: Any) -> NuScenesDataset:
    """The front camera alone, which lacks its image in the first sample."""
    index = load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0))
    files = index.camera_files.copy()
    files[index.samples_of("tiny_train")[0], index.cameras.index("CAM_FRONT")] = b""
    index = replace(index, camera_files=files)
    return NuScenesDataset(
        index, "tiny_train", cameras=["CAM_FRONT"], target=ImageTarget(height=32, width=64), num_sweeps=0
    )


def shown(dataset: NuScenesDataset, number: int) -> torch.Tensor:
    rig, valid = dataset.rig_of(number)
    boxes = torch.tensor(dataset.index.boxes[dataset.index.boxes_of(number)])
    return boxes_in_view(boxes.double(), rig.image_from_ego(), valid, rig.image_size)


def detections_of(dataset: NuScenesDataset, *, hidden_too: bool) -> dict[str, Detections]:
    """The ground truth that the cameras show, or all of it."""
    found = {}
    for number in map(int, dataset.samples):
        rows = dataset.index.boxes_of(number)
        keep = shown(dataset, number) | hidden_too
        found[dataset.index.token(number)] = Detections(
            stamp_ns=int(dataset.index.stamps_ns[number]),
            boxes=torch.tensor(dataset.index.boxes[rows]).nan_to_num()[keep],
            scores=torch.full((int(keep.sum()),), 0.9),
            labels=torch.tensor(dataset.index.labels[rows])[keep],
        )
    return found


def score(dataset: NuScenesDataset, output: Path, *, hidden_too: bool, in_view: bool) -> Metrics:
    return evaluate_detections(
        open_tables(dataset.index.root, dataset.index.version),
        detections_of(dataset, hidden_too=hidden_too),
        dataset.index.poses_of("tiny_train"),
        "tiny_train",
        output,
        keep=CameraView(dataset) if in_view else None,
    )


def test_what_no_camera_shows_costs_the_official_score_only(front: NuScenesDataset, tmp_path: Path) -> None:
    views = torch.cat([shown(front, int(number)) for number in front.samples])
    assert views.any()
    assert not views.all()
    whole = score(front, tmp_path / "whole", hidden_too=True, in_view=False)
    official = score(front, tmp_path / "official", hidden_too=False, in_view=False)
    seen = score(front, tmp_path / "seen", hidden_too=False, in_view=True)
    assert official.mean_ap < whole.mean_ap
    assert seen.mean_ap > official.mean_ap
    best = [name for name, ap in seen.class_ap.items() if ap > 0.99]
    assert best == [name for name, ap in seen.class_ap.items() if ap > 0]  # what is in view was all found


def test_detections_out_of_view_are_left_out_as_well(front: NuScenesDataset, tmp_path: Path) -> None:
    some = score(front, tmp_path / "some", hidden_too=False, in_view=True)
    more = score(front, tmp_path / "more", hidden_too=True, in_view=True)
    assert some.class_ap == more.class_ap


def test_the_command_reports_both(tiny_student: Path, tiny_world: Any, tmp_path: Path) -> None:
    config = EvaluateConfig(
        source=str(tiny_student),
        data=DataConfig(root=tiny_world.root, version=tiny_world.version, val_split="tiny_val", num_sweeps=0),
        output=str(tmp_path / "out"),
        in_view=True,
        num_workers=0,
        progress=False,
    )
    text = run_evaluate(config)
    assert text.count("tiny_val: NDS") == 2
    assert "only boxes that a camera shows, not the official score:" in text
    assert (tmp_path / "out" / IN_VIEW / "metrics.json").is_file()


def test_a_teacher_has_no_cameras_to_go_by(tiny_teacher: Path, tiny_world: Any) -> None:
    data = DataConfig(root=tiny_world.root, version=tiny_world.version, val_split="tiny_val", num_sweeps=1)
    with pytest.raises(ValueError, match="sees by LiDAR"):
        run_evaluate(EvaluateConfig(source=str(tiny_teacher), data=data, in_view=True, num_workers=0, progress=False))

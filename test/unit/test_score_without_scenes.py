from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.core.records import Detections
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.evaluate.metrics import evaluate_results
from training.evaluate.results import results_from
from training.score.without_scenes import scores_without_scenes


def test_without_a_scene_is_as_if_it_were_not_in_the_split(tiny_world: Any, tmp_path: Path) -> None:
    """tiny_val is scene-stand and scene-drive, tiny_train is scene-drive alone."""
    index, nusc = (
        load_index(DataConfig(root=tiny_world.root, version=tiny_world.version, num_sweeps=0)),
        open_tables(tiny_world.root, tiny_world.version),
    )
    found = {}
    for number in map(int, index.samples_of("tiny_val")):
        rows = index.boxes_of(number)
        boxes = torch.tensor(index.boxes[rows]).nan_to_num()
        boxes[:, 0] += 0.7 * number  # beyond the first threshold in all frames but the first
        found[index.token(number)] = Detections(
            stamp_ns=int(index.stamps_ns[number]),
            boxes=boxes,
            scores=torch.linspace(0.9, 0.5, len(boxes)),
            labels=torch.tensor(index.labels[rows]),
        )
    results = results_from(found, index.poses_of("tiny_val"))
    evaluate_results(nusc, results, "tiny_val", tmp_path / "whole")
    drive = evaluate_results(nusc, results, "tiny_train", tmp_path / "drive")
    scores = scores_without_scenes(nusc, "tiny_val", tmp_path / "whole")
    assert scores.keys() == {"scene-stand", "scene-drive"}
    assert scores["scene-stand"] == pytest.approx((drive.nds, drive.mean_ap))
    assert drive.nds > 0.1
    assert scores["scene-drive"] == (0.0, 0.0)  # scene-stand has a box without points alone

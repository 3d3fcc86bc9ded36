import json
import math

import pytest
import torch

from bevdistill_ros.core.records import Detections
from training.evaluate.results import MAX_BOXES, results_from


def detections(boxes: list[list[float]], labels: list[int], scores: list[float] | None = None) -> Detections:
    return Detections(
        stamp_ns=0,
        boxes=torch.tensor(boxes).reshape(-1, 9),
        scores=torch.tensor(scores if scores is not None else [0.5] * len(labels)),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


def pose(x: float, y: float, yaw: float) -> torch.Tensor:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    matrix[:2, 3] = torch.tensor([x, y])
    return matrix


def test_box_by_hand() -> None:
    """The ego looks along global y; a car 10 m ahead of it, seen side-on, drives to its left at 2 m/s."""
    found = detections([[10.0, 0.0, 1.0, 4.5, 1.9, 1.6, math.pi / 2, 0.0, 2.0]], [0], [0.75])
    results = results_from({"token": found}, {"token": pose(1000.0, 500.0, math.pi / 2)})
    (box,) = results["results"]["token"]
    assert box["sample_token"] == "token"
    assert box["translation"] == pytest.approx([1000.0, 510.0, 1.0])
    assert box["size"] == pytest.approx([1.9, 4.5, 1.6])  # width, length, height
    assert [abs(value) for value in box["rotation"]] == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-6)  # heading -x
    assert box["velocity"] == pytest.approx([-2.0, 0.0], abs=1e-6)
    assert box["detection_name"] == "car"
    assert box["detection_score"] == 0.75
    assert box["attribute_name"] == "vehicle.moving"


def test_attribute_follows_class_and_speed() -> None:
    rows = [[0.0, 0, 0, 1, 1, 1, 0, speed, 0] for speed in (0.0, 3.0, 0.1, 2.0, 0.0)]
    results = results_from({"a": detections(rows, [0, 8, 8, 6, 9])}, {"a": pose(0, 0, 0)})
    names = [box["attribute_name"] for box in results["results"]["a"]]
    assert names == ["vehicle.parked", "pedestrian.moving", "pedestrian.standing", "cycle.with_rider", ""]


def test_best_boxes_are_kept() -> None:
    count = MAX_BOXES + 3
    scores = torch.rand(count).tolist()
    found = detections([[0.0, 0, 0, 1, 1, 1, 0, 0, 0]] * count, [0] * count, scores)
    kept = [box["detection_score"] for box in results_from({"a": found}, {"a": pose(0, 0, 0)})["results"]["a"]]
    assert kept == pytest.approx(sorted(scores, reverse=True)[:MAX_BOXES])


def test_empty_sample_keeps_its_entry() -> None:
    results = results_from({"a": detections([], [])}, {"a": pose(0, 0, 0)})
    assert results["results"] == {"a": []}


@pytest.mark.parametrize("uses_lidar", [False, True])
def test_content_is_json_and_names_the_sensor(uses_lidar: bool) -> None:
    found = detections([[1.0, 2, 3, 4, 5, 6, 0.7, 8, 9]], [3])
    results = results_from({"a": found}, {"a": pose(0, 0, 0)}, uses_lidar=uses_lidar)
    assert json.loads(json.dumps(results)) == results
    assert (results["meta"]["use_lidar"], results["meta"]["use_camera"]) == (uses_lidar, not uses_lidar)


def test_missing_pose() -> None:
    with pytest.raises(ValueError, match="1 samples with detections have no ego pose, for example b"):
        results_from({"a": detections([], []), "b": detections([], [])}, {"a": pose(0, 0, 0)})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(value: float) -> None:
    found = detections([[value, 0, 0, 1, 1, 1, 0, 0, 0]], [0])
    with pytest.raises(ValueError, match="detections of sample a hold values that are not finite"):
        results_from({"a": found}, {"a": pose(0, 0, 0)})

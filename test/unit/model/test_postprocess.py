import math

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import encode_boxes
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import SetPrediction

GRID = BevGrid(x_min=-10, x_max=30, y_min=-10, y_max=10, z_min=-3, z_max=5, rows=8, cols=8)
BOX = torch.tensor([12.0, -3.0, 0.8, 4.5, 1.9, 1.6, 2.0, 3.0, -1.0])


def prediction_of(boxes: Tensor, logits: Tensor) -> SetPrediction:
    """Boxes (B, Q, 9) and logits (B, Q, K) as the last of two layers; the first is nonsense."""
    codes = encode_boxes(boxes)
    return SetPrediction(
        logits=torch.stack([torch.full_like(logits, 9.0), logits]),
        codes=torch.stack([torch.zeros_like(codes), codes]),
        features=torch.zeros(2, *codes.shape[:2], 4),
    )


def test_the_last_layer_becomes_detections_by_falling_score() -> None:
    boxes = torch.stack([BOX, BOX + torch.tensor([1.0, *[0.0] * 8])])[None]
    logits = torch.full((1, 2, 10), -5.0)
    logits[0, 0, CLASS_NAMES.index("truck")] = 0.0
    logits[0, 1, CLASS_NAMES.index("pedestrian")] = 2.0
    logits[0, 1, CLASS_NAMES.index("bicycle")] = 1.0
    found = detections_from(prediction_of(boxes, logits), [42], max_detections=3, grid=GRID)[0]
    assert found.stamp_ns == 42
    assert [CLASS_NAMES[label] for label in found.labels] == ["pedestrian", "bicycle", "truck"]
    expected = [1 / (1 + math.exp(-2)), 1 / (1 + math.exp(-1)), 0.5]
    assert found.scores.tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(found.boxes[2], BOX)
    torch.testing.assert_close(found.boxes[:2], boxes[0, 1].expand(2, -1))


def test_boxes_outside_the_grid_are_dropped() -> None:
    boxes = BOX.repeat(1, 4, 1)
    boxes[0, 0, 0], boxes[0, 1, 1], boxes[0, 2, 2] = 30.5, -10.5, 5.5
    logits = torch.zeros(1, 4, 10)
    found = detections_from(prediction_of(boxes, logits), [0], grid=GRID)[0]
    torch.testing.assert_close(found.boxes, BOX.expand(10, -1))


def test_frames_are_independent() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = BOX + torch.rand(2, 5, 9, generator=generator)
    logits = torch.randn(2, 5, 10, generator=generator)
    both = detections_from(prediction_of(boxes, logits), [1, 2], max_detections=7, grid=GRID)
    for item in range(2):
        alone = detections_from(
            prediction_of(boxes[item : item + 1], logits[item : item + 1]), [item + 1], max_detections=7, grid=GRID
        )[0]
        assert both[item].stamp_ns == alone.stamp_ns
        assert len(alone.scores) == 7
        torch.testing.assert_close(both[item].boxes, alone.boxes)
        torch.testing.assert_close(both[item].scores, alone.scores)


def test_the_limit_may_exceed_what_there_is() -> None:
    found = detections_from(prediction_of(BOX.repeat(1, 2, 1), torch.zeros(1, 2, 10)), [0], grid=GRID)[0]
    assert len(found.scores) == 20


def test_bad_arguments_are_refused() -> None:
    prediction = prediction_of(BOX.repeat(2, 1, 1), torch.zeros(2, 1, 10))
    with pytest.raises(ValueError, match="2 frames need as many stamps, but got 1"):
        detections_from(prediction, [0], grid=GRID)
    with pytest.raises(ValueError, match="max_detections must be at least 1"):
        detections_from(prediction, [0, 1], max_detections=0, grid=GRID)

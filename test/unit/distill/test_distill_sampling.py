"""Reading maps at points, and dense box maps."""

import math

import pytest
import torch

from bevdistill_ros.core.boxes import encode_boxes
from training.distill.dense_head import box_map, map_distance


def test_samples_of_a_linear_map_are_exact(grid):
    centres = grid.cell_centres()
    bev = torch.stack([centres[..., 0], 3 * centres[..., 1] + 1])[None]
    points = torch.tensor([[[0.13, -2.6], [-6.9, 5.5], [3.0, 0.0]]])
    expected = torch.stack([points[..., 0], 3 * points[..., 1] + 1], dim=-1)
    torch.testing.assert_close(grid.sample(bev, points), expected)


def test_sample_at_a_cell_centre_is_its_value_and_outside_is_zero(grid):
    bev = torch.randn(2, 3, grid.rows, grid.cols)
    inside = grid.cell_centres()[4, 17]
    sampled = grid.sample(bev, torch.stack([inside, torch.tensor([30.0, 0.0])]).expand(2, 2, 2))
    torch.testing.assert_close(sampled[:, 0], bev[:, :, 4, 17])
    assert sampled[:, 1].abs().sum() == 0


def test_box_map_holds_the_nearest_box_from_the_cell_centre(make_scene, grid):
    boxes = make_scene((3, 0)).batch.boxes
    maps = box_map(boxes, grid)
    assert maps.shape == (2, 10, grid.rows, grid.cols)
    assert maps[1].abs().sum() == 0
    for row in range(0, grid.rows, 3):
        for col in range(0, grid.cols, 3):
            x, y = grid.cell_centres()[row, col].tolist()
            nearest = min(boxes[0].tolist(), key=lambda box, x=x, y=y: math.hypot(box[0] - x, box[1] - y))
            code = encode_boxes(torch.tensor(nearest))
            expected = torch.cat([code[:2] - torch.tensor([x, y]), code[2:]])
            torch.testing.assert_close(maps[0, :, row, col], expected)


def test_unknown_velocity_teaches_nothing():
    predicted = torch.zeros(1, 10, 1, 1, requires_grad=True)
    target = torch.ones(1, 10, 1, 1)
    target[:, 8:] = float("nan")
    distance = map_distance(predicted, target)
    distance.sum().backward()
    assert distance.item() == pytest.approx(8.0)
    assert predicted.grad.flatten().tolist() == [-1.0] * 8 + [0.0] * 2

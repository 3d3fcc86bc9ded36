"""Foreground masks and the masked mean."""

import math
from dataclasses import replace

import pytest
import torch

from training.distill.foreground import foreground_mask, weighted_mean


def box_at(x, y, *, length=4.0, width=2.0, yaw=0.0):
    return torch.tensor([[x, y, 1.0, length, width, 1.5, yaw, float("nan"), float("nan")]])


def test_soft_mask_by_hand(grid):
    row, col = 5, 12
    x, y = grid.metres_from_cells(torch.tensor([float(col), float(row)])).tolist()
    mask = foreground_mask("soft", [box_at(x, y)], grid)[0]
    assert mask.shape == (grid.rows, grid.cols)
    assert mask[row, col] == pytest.approx(1.0)
    one_cell = math.exp(-(0.8**2) / (2 * 1.6**2))
    assert mask[row, col + 1] == pytest.approx(one_cell)
    assert mask[row - 1, col] == pytest.approx(one_cell)
    assert mask[row + 2, col] == pytest.approx(one_cell**4)


def test_soft_mask_matches_a_loop_over_cells_and_boxes(make_scene, grid):
    boxes = make_scene((3, 2)).batch.boxes
    mask = foreground_mask("soft", boxes, grid, sigma=1.1)
    centres = grid.cell_centres()
    for item, truth in enumerate(boxes):
        for row in range(grid.rows):
            for col in range(grid.cols):
                x, y = centres[row, col].tolist()
                weights = [math.exp(-((x - b[0]) ** 2 + (y - b[1]) ** 2) / (2 * 1.1**2)) for b in truth.tolist()]
                assert mask[item, row, col] == pytest.approx(max(weights), abs=1e-5)


def test_soft_mask_means_the_same_on_a_finer_grid(grid):
    box = box_at(1.3, -2.1)
    coarse = foreground_mask("soft", [box], grid)
    fine = foreground_mask("soft", [box], grid.with_cells(rows=3 * grid.rows, cols=3 * grid.cols))
    torch.testing.assert_close(fine[:, 1::3, 1::3], coarse)  # the middle one of three cells has the same centre


def test_box_mask_holds_the_cells_inside_a_turned_box(grid):
    yaw = 0.6
    mask = foreground_mask("box", [box_at(1.0, -0.7, length=5.0, width=3.0, yaw=yaw)], grid)[0]
    for row in range(grid.rows):
        for col in range(grid.cols):
            x, y = (grid.cell_centres()[row, col] - torch.tensor([1.0, -0.7])).tolist()
            along, across = x * math.cos(yaw) + y * math.sin(yaw), -x * math.sin(yaw) + y * math.cos(yaw)
            assert mask[row, col] == float(abs(along) <= 2.5 and abs(across) <= 1.5)
    assert mask.sum() > 10


@pytest.mark.parametrize(
    ("x", "y", "row", "col"), [(0.0, 0.0, 8, 10), (-8.0, -6.4, 0, 0), (7.9999999, 6.3999999, 15, 19)]
)
def test_box_mask_keeps_an_object_smaller_than_a_cell(x, y, row, col, grid):
    mask = foreground_mask("box", [box_at(x, y, length=0.1, width=0.1)], grid)[0]
    if grid.contains(torch.tensor([x, y])):
        assert mask[row, col] == 1
        assert mask.sum() == 1
    else:
        assert mask.sum() == 0


def test_sharp_mask_is_half_a_cell_wide_on_the_centre_cell(grid):
    row, col = 5, 12
    x, y = grid.metres_from_cells(torch.tensor([col + 0.4, row - 0.3])).tolist()
    mask = foreground_mask("soft_sharp", [box_at(x, y, length=0.6, width=0.6)], grid)[0]
    assert mask[row, col] == pytest.approx(1.0)
    assert mask[row, col + 1] == pytest.approx(math.exp(-1 / (2 * 0.5**2)))
    assert mask[row - 1, col] == mask[row, col + 1]


def test_teacher_score_is_the_highest_score_times_gaussian(make_scene, grid):
    scene = make_scene((2, 1))
    predictions = scene.teacher.predictions
    mask = foreground_mask("teacher_score", scene.batch.boxes, grid, predictions=predictions)
    expected = torch.zeros_like(mask)
    for item in range(2):
        for query in range(predictions.logits.shape[2]):
            place = predictions.codes[-1, item, query, :2].detach()
            score = predictions.logits[-1, item, query].sigmoid().max()
            distance = (grid.cell_centres() - place).square().sum(dim=-1)
            expected[item] = torch.maximum(expected[item], (score * (-distance / (2 * 1.6**2)).exp()).detach())
    torch.testing.assert_close(mask, expected)
    assert not mask.requires_grad


def test_teacher_score_needs_queries(make_scene, grid):
    with pytest.raises(ValueError, match="needs a teacher with queries"):
        foreground_mask("teacher_score", make_scene().batch.boxes, grid)


@pytest.mark.parametrize("kind", ["box", "soft", "soft_sharp"])
def test_without_objects_the_mask_is_zero(kind, grid):
    mask = foreground_mask(kind, [torch.zeros(0, 9), torch.zeros(0, 9)], grid)
    assert mask.shape == (2, grid.rows, grid.cols)
    assert mask.sum() == 0


@pytest.mark.parametrize("kind", ["none", "box", "soft", "soft_sharp"])
def test_each_item_has_its_own_mask(kind, make_scene, grid):
    boxes = make_scene((3, 2)).batch.boxes
    together = foreground_mask(kind, boxes, grid)
    for item, truth in enumerate(boxes):
        assert torch.equal(together[item], foreground_mask(kind, [truth], grid)[0])


@pytest.mark.parametrize("kind", ["box", "soft", "soft_sharp", "teacher_score"])
def test_order_of_boxes_does_not_matter(kind, make_scene, grid):
    scene = make_scene((4,))
    flipped = replace(scene.batch, boxes=(scene.batch.boxes[0].flip(0),))
    first, second = (
        foreground_mask(kind, batch.boxes, grid, predictions=scene.teacher.predictions)
        for batch in (scene.batch, flipped)
    )
    assert torch.equal(first, second)


def test_no_mask_is_one_everywhere(make_scene, grid):
    assert torch.equal(foreground_mask("none", make_scene().batch.boxes, grid), torch.ones(2, grid.rows, grid.cols))


def test_weighted_mean_by_hand():
    error = torch.tensor([[2.0, 4.0, 100.0], [7.0, 8.0, 9.0], [6.0, 0.0, 0.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])
    assert weighted_mean(error, mask) == pytest.approx((3.0 + 0.0 + 3.0) / 3)  # weights below 1 in all are not blown up

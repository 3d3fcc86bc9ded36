"""The centre heatmap."""

import math

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import corners_bev
from bevdistill_ros.core.grid import BevGrid
from training.criterion.heatmap import HeatmapHead, gaussian_radius, gaussian_targets, heatmap_loss

GRID = BevGrid(x_min=0.0, x_max=16.0, y_min=0.0, y_max=12.0, rows=12, cols=16)


def box_at(x: float, y: float, length: float = 4.0, width: float = 2.0) -> Tensor:
    return torch.tensor([[x, y, 0.0, length, width, 1.5, 0.0, 0.0, 0.0]])


def label_of(*labels: int) -> Tensor:
    return torch.tensor(labels, dtype=torch.int64)


def test_radius_keeps_the_overlap() -> None:
    length, width, overlap = torch.tensor([8.0, 5.0, 3.0]), torch.tensor([4.0, 5.0, 1.0]), 0.5
    radius = gaussian_radius(length, width, min_overlap=overlap)
    kept = (length - radius) * (width - radius)
    shifted = kept / (2 * length * width - kept)
    shrunk = (length - 2 * radius) * (width - 2 * radius) / (length * width)
    grown = length * width / ((length + 2 * radius) * (width + 2 * radius))
    worst = torch.stack([shifted, shrunk, grown]).min(dim=0).values
    assert worst.tolist() == pytest.approx([overlap] * 3, abs=1e-5)


def test_peak_lies_on_the_centre_cell_rows_along_y() -> None:
    heat = gaussian_targets([box_at(10.2, 3.9)], [label_of(2)], GRID)
    assert tuple(heat.shape) == (1, 10, 12, 16)
    assert heat[0, 2, 3, 10] == 1.0
    assert (heat == 1.0).sum() == 1
    assert heat.sum() == heat[0, 2].sum()


def test_gaussian_equals_a_slow_loop() -> None:
    heat = gaussian_targets([box_at(5.5, 5.5, 6.0, 6.0)], [label_of(0)], GRID, min_overlap=0.1, min_radius=1.0)
    radius = gaussian_radius(torch.tensor(6.0), torch.tensor(6.0), min_overlap=0.1).item()
    assert radius > 1.0
    sigma = (2 * radius + 1) / 6
    for row in range(12):
        for col in range(16):
            expected = math.exp(-((row - 5) ** 2 + (col - 5) ** 2) / (2 * sigma**2))
            assert heat[0, 0, row, col].item() == pytest.approx(expected, abs=1e-6)


def test_least_radius_holds_for_small_boxes() -> None:
    heat = gaussian_targets([box_at(5.5, 5.5, 0.4, 0.4)], [label_of(9)], GRID, min_radius=2.0)
    assert heat[0, 9, 5, 6].item() == pytest.approx(math.exp(-0.5 / (5 / 6) ** 2), abs=1e-6)


def test_the_higher_of_two_gaussians_counts() -> None:
    boxes = torch.cat([box_at(3.5, 5.5), box_at(6.5, 5.5)])
    both = gaussian_targets([boxes], [label_of(1, 1)], GRID)
    first = gaussian_targets([boxes[:1]], [label_of(1)], GRID)
    second = gaussian_targets([boxes[1:]], [label_of(1)], GRID)
    assert torch.equal(both, torch.maximum(first, second))


def test_boxes_outside_are_left_out_and_those_on_the_border_stay_inside() -> None:
    outside = gaussian_targets([box_at(16.0, 3.0)], [label_of(0)], GRID)
    assert outside.sum() == 0
    border = gaussian_targets([box_at(15.9999, 0.0)], [label_of(0)], GRID)
    assert border[0, 0, 0, 15] == 1.0


def test_loss_by_hand() -> None:
    grid = BevGrid(x_min=0.0, x_max=2.0, y_min=0.0, y_max=1.0, rows=1, cols=2)
    loss = heatmap_loss(torch.zeros(1, 1, 1, 2), [box_at(0.5, 0.5, 0.5, 0.5)], [label_of(0)], grid)
    neighbour = math.exp(-0.5 / (5 / 6) ** 2)
    assert loss.item() == pytest.approx(0.25 * math.log(2) * (1 + (1 - neighbour) ** 4), abs=1e-6)


def test_loss_counts_centres_over_the_batch() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 10, 12, 16)
    boxes = [box_at(3.0, 4.0), torch.cat([box_at(8.0, 4.0), box_at(2.0, 9.0)])]
    labels = [label_of(0), label_of(3, 0)]
    both = heatmap_loss(logits, boxes, labels, GRID)
    first = heatmap_loss(logits[:1], boxes[:1], labels[:1], GRID)
    second = heatmap_loss(logits[1:], boxes[1:], labels[1:], GRID)
    assert both.item() == pytest.approx((first.item() + 2 * second.item()) / 3, rel=1e-5)


def test_no_ground_truth_is_finite_and_pushes_scores_down() -> None:
    logits = torch.zeros(1, 10, 12, 16, requires_grad=True)
    loss = heatmap_loss(logits, [torch.zeros(0, 9)], [label_of()], GRID)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


def test_extreme_logits_stay_finite() -> None:
    logits = torch.full((1, 10, 12, 16), -200.0, requires_grad=True)
    loss = heatmap_loss(logits, [box_at(3.0, 4.0)], [label_of(0)], GRID)
    loss.backward()
    assert loss.item() == pytest.approx(200.0)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_map_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(16, 12\) cells, but its grid of \(12, 16\)"):
        heatmap_loss(torch.zeros(1, 10, 16, 12), [box_at(3.0, 4.0)], [label_of(0)], GRID)


@pytest.mark.parametrize("detach", [True, False])
def test_head_starts_at_a_low_score_and_detaches_on_request(detach: bool) -> None:
    torch.manual_seed(0)
    head = HeatmapHead(8, num_classes=4, detach=detach)
    bev = torch.randn(2, 8, 6, 6, requires_grad=True)
    logits = head(bev)
    assert tuple(logits.shape) == (2, 4, 6, 6)
    assert logits.sigmoid().mean().item() == pytest.approx(0.1, abs=0.05)
    logits.sum().backward()
    assert (bev.grad is None) == detach


def test_the_gaussian_lies_inside_a_box_of_usual_size() -> None:
    corners = corners_bev(box_at(8.0, 6.0))[0]
    heat = gaussian_targets([box_at(8.0, 6.0)], [label_of(0)], GRID)[0, 0]
    centres = GRID.cell_centres()
    strong = centres[heat > 0.9]
    assert ((strong >= corners.min(dim=0).values) & (strong <= corners.max(dim=0).values)).all()


def test_weights_count_at_the_cells_of_centres_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 10, 12, 16)
    boxes, labels = [torch.cat([box_at(10.2, 3.9), box_at(4.0, 8.0)])], [label_of(2, 0)]
    plain = heatmap_loss(logits, boxes, labels, GRID)
    assert heatmap_loss(logits, boxes, labels, GRID, weights=[torch.ones(2)]).item() == plain.item()
    score = logits[0, 2, 3, 10].sigmoid()
    centre = -((1 - score) ** 2) * score.log()
    half = heatmap_loss(logits, boxes, labels, GRID, weights=[torch.tensor([0.5, 1.0])])
    assert (plain - half).item() == pytest.approx(0.5 * centre.item() / 2, abs=1e-5)  # two centres


def test_the_map_of_an_unlabelled_item_is_left_alone() -> None:
    logits = torch.randn(2, 10, 12, 16, requires_grad=True)
    boxes, labels = [box_at(10.2, 3.9), box_at(0, 0)[:0]], [label_of(2), label_of()]
    loss = heatmap_loss(logits, boxes, labels, GRID, annotated=torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == pytest.approx(heatmap_loss(logits[:1], boxes[:1], labels[:1], GRID).item())
    assert logits.grad is not None
    assert logits.grad[0].abs().sum() > 0
    assert logits.grad[1].abs().sum() == 0

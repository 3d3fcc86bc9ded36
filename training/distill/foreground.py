"""Where in BEV the objects are: weights of the cells for the dense distillation terms.

BEVDistill (arXiv 2211.09386), foreground-guided dense distillation: w_i(p) = exp(-|p - mu_i|^2 / 2 sigma^2) around
the centre mu_i of ground-truth box i, and W(p) = max_i w_i(p).

Deviation: sigma is given in metres, so that it means the same on any grid; the paper's 2 cells of 0.8 m are the
default. `soft_sharp` is the much sharper mask of the authors' release: a Gaussian by the size of the box, drawn on
whole cells, sigma about half a cell. `box` adds to the cells whose centre lies in a box the cell that holds the box's
own centre, so that objects smaller than a cell count.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import points_in_boxes
from bevdistill_ros.core.grid import BevGrid, constant_like
from bevdistill_ros.model.records import SetPrediction
from training.criterion.heatmap import gaussian_targets

Mask = Literal["none", "box", "soft", "soft_sharp", "teacher_score"]

_SHARP_OVERLAP = 0.1  # of the release
_SHARP_RADIUS = 1.0  # [cells] least radius: sigma (2 * 1 + 1) / 6 = half a cell


@torch.no_grad()
def foreground_mask(
    kind: Mask,
    boxes: Sequence[Tensor],
    grid: BevGrid,
    *,
    sigma: float = 1.6,
    predictions: SetPrediction | None = None,
) -> Tensor:
    """Weights of the cells.

    Args:
        kind: none (1 everywhere), box (1 inside boxes), soft (Gaussian around box centres), soft_sharp (narrow
            Gaussian by box size) or teacher_score (Gaussian around the teacher's predicted centres, as high as their
            scores).
        boxes: B x (M_b, 9) ground truth in the ego frame; only x, y, l, w and yaw are read.
        grid: Where to weigh.
        sigma: Spread of soft and teacher_score [m].
        predictions: The teacher's; needed for teacher_score only.

    Returns:
        (B, rows, cols) float32 in [0, 1]; all zero (but for none) where there is no object.

    Raises:
        ValueError: teacher_score without predictions.
    """
    match kind:
        case "none":
            device = boxes[0].device if boxes else None
            return torch.ones(len(boxes), grid.rows, grid.cols, device=device)
        case "box":
            return torch.stack([_inside(item, grid) for item in boxes])
        case "soft":
            return torch.stack([_gaussian(item[:, :2], item.new_ones(len(item)), grid, sigma) for item in boxes])
        case "soft_sharp":
            labels = [torch.zeros(len(item), dtype=torch.int64, device=item.device) for item in boxes]
            return gaussian_targets(
                boxes, labels, grid, num_classes=1, min_overlap=_SHARP_OVERLAP, min_radius=_SHARP_RADIUS
            ).squeeze(1)
        case "teacher_score":
            if predictions is None:
                raise ValueError("the mask teacher_score needs a teacher with queries; choose box, soft or soft_sharp")
            centres_BQ2 = predictions.codes[-1, ..., :2].float()
            scores_BQ = predictions.logits[-1].float().sigmoid().amax(dim=-1)
            return torch.stack([_gaussian(c, s, grid, sigma) for c, s in zip(centres_BQ2, scores_BQ, strict=True)])


def weighted_mean(error: Tensor, mask: Tensor) -> Tensor:
    """Mean over the batch of each item's sum(mask * error) / max(sum(mask), 1): a scalar; 0 for an empty mask.

    Args:
        error: (B, ...).
        mask: (B, ...) of the same shape, not negative.
    """
    total_B = (mask * error).flatten(1).sum(dim=1)
    return (total_B / mask.flatten(1).sum(dim=1).clamp(min=1.0)).mean()


def _gaussian(centres: Tensor, heights: Tensor, grid: BevGrid, sigma: float) -> Tensor:
    """Highest (rows, cols) of the Gaussians of heights (N,) around centres (N, 2) [m]."""
    if not len(centres):
        return centres.new_zeros(grid.rows, grid.cols)
    cell_centres = grid.cell_centres(centres.device)
    across = cell_centres[0, :, 0] - centres[:, :1]
    along = cell_centres[:, 0, 1] - centres[:, 1:]
    # A Gaussian of the plane is the product of one across and one along, which need few exponentials.
    across, along = ((-offset.square() / (2 * sigma**2)).exp() for offset in (across, along))
    return ((heights[:, None] * along)[:, :, None] * across[:, None, :]).amax(dim=0)


def _inside(boxes: Tensor, grid: BevGrid) -> Tensor:
    """1 in the cells (rows, cols) whose centre lies in one of the boxes (M, 9), or that hold the centre of one."""
    flat = boxes.clone()
    flat[:, 2] = 0
    points = torch.nn.functional.pad(grid.cell_centres(boxes.device), (0, 1))
    inside = points_in_boxes(points.flatten(0, 1), flat).any(dim=0).view(grid.rows, grid.cols)
    place = grid.normalize(boxes[:, :2]) * constant_like(boxes, (grid.cols, grid.rows))
    col, row = place.long().unbind(dim=-1)
    # A centre just below the upper border may be rounded onto it.
    cell = row.clamp(0, grid.rows - 1) * grid.cols + col.clamp(0, grid.cols - 1)
    is_on_grid = grid.contains(boxes[:, :2]).float()
    return inside.float().flatten().scatter_reduce(0, cell, is_on_grid, "amax").view(grid.rows, grid.cols)

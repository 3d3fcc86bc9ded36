"""Centre heatmap of CenterNet (arXiv 1904.07850) on a BEV map: head, targets and penalty-reduced focal loss.

Deviation: a target Gaussian is not cut off at its radius.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from training.criterion.set_loss import inside_grid

IGNORED_HEIGHT = 0.1  # cells at which the Gaussian of an ignored box is higher are left out
_INITIAL_LOGIT = -2.19  # a score of 0.1 everywhere keeps the first steps from being all about empty cells


class HeatmapHead(nn.Module):
    """Predicts for each cell and class whether an object's centre lies there.

    Args:
        channels: Channels of the BEV map.
        num_classes: Number of classes K.
        detach: Train only the head, and leave the map's gradient alone.
    """

    def __init__(self, channels: int, *, num_classes: int = NUM_CLASSES, detach: bool = False) -> None:
        super().__init__()
        self.detach = detach
        last = nn.Conv2d(channels, num_classes, 3, padding=1)
        assert last.bias is not None
        nn.init.constant_(last.bias, _INITIAL_LOGIT)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            last,
        )

    def forward(self, bev: Tensor) -> Tensor:
        """Map a BEV map (B, C, rows, cols) to logits (B, K, rows, cols)."""
        logits: Tensor = self.layers(bev.detach() if self.detach else bev)
        return logits


def gaussian_radius(length: Tensor, width: Tensor, *, min_overlap: float) -> Tensor:
    """How far the corners of a box may move before its overlap falls below a threshold (CornerNet, arXiv 1808.01244).

    Args:
        length: (M,) in any unit.
        width: (M,) in the same unit.
        min_overlap: Intersection over union that is to remain, in (0, 1).

    Returns:
        Radius (M,) in the same unit: the least over a shifted, a shrunk and a grown box.
    """
    total, area = length + width, length * width
    shifted = (total - (total.square() - 4 * area * (1 - min_overlap) / (1 + min_overlap)).sqrt()) / 2
    shrunk = (total - (total.square() - 4 * area * (1 - min_overlap)).sqrt()) / 4
    grown = ((total.square() + 4 * area * (1 - min_overlap) / min_overlap).sqrt() - total) / 4
    return torch.minimum(torch.minimum(shifted, shrunk), grown)


@torch.no_grad()
def gaussian_targets(
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    grid: BevGrid,
    *,
    num_classes: int = NUM_CLASSES,
    min_overlap: float = 0.1,
    min_radius: float = 2.0,
) -> Tensor:
    """Draw a Gaussian of height 1 on the cell of each box centre; where they overlap the higher one counts.

    Args:
        boxes: B x (M_b, 9) in the ego frame; those outside the grid are left out.
        labels: B x (M_b,) int64.
        grid: Where to draw.
        num_classes: Number of classes K.
        min_overlap: See `gaussian_radius`.
        min_radius: Least radius of a Gaussian [cells]; three standard deviations span radius + 0.5.

    Returns:
        (B, K, rows, cols) float32 in [0, 1].
    """
    boxes, labels = inside_grid(grid, boxes, labels)
    box = torch.cat(boxes)
    channel, cell = _centres(boxes, labels, grid, num_classes)
    cell_x, cell_y = grid.cell_size
    radius = gaussian_radius(box[:, 3] / cell_x, box[:, 4] / cell_y, min_overlap=min_overlap).clamp(min=min_radius)
    precision = 0.5 / ((2 * radius + 1) / 6).square()
    across = torch.arange(grid.cols, device=box.device) - cell[:, :1]
    along = torch.arange(grid.rows, device=box.device) - cell[:, 1:]
    distance = along.square()[:, :, None] + across.square()[:, None, :]
    gaussians = (-precision[:, None, None] * distance).exp()
    targets = gaussians.new_zeros(len(boxes) * num_classes, grid.rows, grid.cols)
    targets.scatter_reduce_(0, channel[:, None, None].expand_as(gaussians), gaussians, "amax")
    return targets.unflatten(0, (len(boxes), num_classes))


def _centres(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], grid: BevGrid, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Channel (M,) into batch and classes and cell (M, 2), column first, of each box on the grid."""
    channel = torch.cat([item * num_classes + label for item, label in enumerate(labels)])
    cell = grid.cells_from_metres(torch.cat(list(boxes))[:, :2]).round()
    # Rounding at the upper border may step out of the grid by one cell.
    return channel, torch.stack([cell[:, 0].clamp(0, grid.cols - 1), cell[:, 1].clamp(0, grid.rows - 1)], dim=-1)


@torch.no_grad()
def _centre_weights(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], weights: Sequence[Tensor], grid: BevGrid, like: Tensor
) -> Tensor:
    """Weight (B, K, rows, cols) of each cell as that of the box centre in it, of several the highest; 0 elsewhere."""
    counted = torch.cat(list(weights)) * grid.contains(torch.cat(list(boxes))[:, :3])
    channel, cell = _centres(boxes, labels, grid, like.shape[1])
    column, row = cell.long().unbind(dim=-1)
    place = (channel * grid.rows + row) * grid.cols + column
    flat = torch.zeros_like(like).flatten()
    return flat.scatter_reduce_(0, place, counted.to(flat.dtype), "amax").view_as(like)


def heatmap_loss(
    logits: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    grid: BevGrid,
    ignored: Sequence[Tensor] = (),
    *,
    weights: Sequence[Tensor] | None = None,
    annotated: Tensor | None = None,
) -> Tensor:
    """Penalty-reduced focal loss of a centre heatmap.

    Args:
        logits: (B, K, rows, cols).
        boxes: B x (M_b, 9) in the ego frame.
        labels: B x (M_b,) int64.
        grid: The grid of the logits.
        ignored: B x (I_b, 9), or empty: boxes that are no targets. Cells under their Gaussians are left out for all
            classes, apart from the cells of centres.
        weights: B x (M_b,) in [0, 1]: factor of the cell of each box centre; None: 1.
        annotated: (B,) bool, False for an item without labels, of which only the cells of centres count; None: all are
            labelled.

    Returns:
        Scalar: the sum over cells and classes divided by the number of centres (at least 1).

    Raises:
        ValueError: The logits are not on the grid.
    """
    if tuple(logits.shape[-2:]) != (grid.rows, grid.cols):
        raise ValueError(f"heatmap is of {tuple(logits.shape[-2:])} cells, but its grid of {(grid.rows, grid.cols)}")
    logits = logits.float()
    targets = gaussian_targets(boxes, labels, grid, num_classes=logits.shape[1])
    score = logits.sigmoid()
    centre = targets == 1
    at_centres = -(1 - score).square() * logsigmoid(logits)
    elsewhere = -(1 - targets).pow(4) * score.square() * logsigmoid(-logits)
    if any(len(item) for item in ignored):
        one = [item.new_zeros(len(item), dtype=torch.int64) for item in ignored]
        hidden = gaussian_targets(ignored, one, grid, num_classes=1) > IGNORED_HEIGHT
        elsewhere = elsewhere.masked_fill(hidden, 0.0)
    if annotated is not None:
        elsewhere = elsewhere.masked_fill(~annotated[:, None, None, None], 0.0)
    if weights is not None:
        at_centres = at_centres * _centre_weights(boxes, labels, weights, grid, logits)
    return torch.where(centre, at_centres, elsewhere).sum() / centre.sum().clamp(min=1)

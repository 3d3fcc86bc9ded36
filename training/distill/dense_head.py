"""A dense box head on a BEV map: in each cell the box of the nearest object, for the methods that compare such
responses.

A box map holds core.boxes regression codes (B, 10, rows, cols) in metres, with x and y counted from the centre of the
cell.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.core.boxes import CODE_SIZE, encode_boxes
from bevdistill_ros.core.grid import BevGrid


class DenseBoxHead(nn.Sequential):
    """Predicts a box map from a BEV map (B, channels, rows, cols).

    Args:
        channels: Of the BEV map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, CODE_SIZE, 1),
        )


@torch.no_grad()
def box_map(boxes: Sequence[Tensor], grid: BevGrid) -> Tensor:
    """The box map of ground truth B x (M_b, 9): in each cell the box whose centre is nearest; zero for an item
    without boxes.

    Returns:
        (B, 10, rows, cols) float32; NaN where a velocity is.
    """
    maps = [_nearest(item.float(), grid) for item in boxes]
    return torch.stack(maps).permute(0, 3, 1, 2)


def _nearest(boxes: Tensor, grid: BevGrid) -> Tensor:
    if not len(boxes):
        return boxes.new_zeros(grid.rows, grid.cols, CODE_SIZE)
    centres = grid.cell_centres(boxes.device)
    nearest = torch.cdist(centres.flatten(0, 1), boxes[:, :2]).argmin(dim=1)
    codes = encode_boxes(boxes)[nearest].view(grid.rows, grid.cols, CODE_SIZE)
    return torch.cat([codes[..., :2] - centres, codes[..., 2:]], dim=-1)


def map_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 distance (B, rows, cols) of two box maps, over those of the ten numbers that the target knows (is not NaN)."""
    known = target.isfinite()
    # The unknown is replaced before the subtraction: NaN * 0 would be NaN in the gradient too.
    return (predicted - torch.where(known, target, predicted.detach())).abs().sum(dim=1)

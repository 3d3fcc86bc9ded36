"""Reading a BEV map at points in metres."""

from torch import Tensor
from torch.nn.functional import grid_sample

from bevdistill_ros.core.grid import BevGrid


def sample_bev(bev: Tensor, points: Tensor, grid: BevGrid) -> Tensor:
    """Bilinear samples of a BEV map.

    Args:
        bev: (B, C, rows, cols) on the grid; cell centres hold the values, and beyond the map lies zero.
        points: x, y [m] (B, N, 2) in the ego frame.
        grid: Of the map.

    Returns:
        (B, N, C) float32.
    """
    place = grid.normalize(points.float()) * 2 - 1
    sampled = grid_sample(bev.float(), place.unsqueeze(2), align_corners=False)
    return sampled.squeeze(-1).transpose(1, 2)

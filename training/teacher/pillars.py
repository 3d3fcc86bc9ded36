"""Dynamic pillars: a cloud as a BEV map, PointPillars (arXiv 1812.05784) with dynamic voxelisation (arXiv 1910.06528).

No cap on the number of points or pillars: every point in the extent counts. Points are sorted by pillar and reduced run
by run, so that a sum never depends on the order in which threads arrive.

Deviation: places are scaled to about [-1, 1] (absolute ones by the extent, offsets by the pillar), so that the first
layer sees all of them from the first step; the original takes metres.

Shape legend: B batch, P points of an item, N points inside the extent, V pillars that hold points, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from bevdistill_ros.core.grid import BevGrid, constant_like

POINT_SIZE = 5  # [x y z intensity lag]: m, 0...1, s
NUM_FEATURES = 10  # [x y z intensity lag, offset to the pillar's mean (3), offset to the pillar's centre (2)]


class PointNorm(nn.BatchNorm1d):
    """Batch norm over points; a batch of fewer than two, which has no variance, takes the running statistics."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (N, C)."""
        if self.training and len(features) < 2:
            return batch_norm(
                features, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(features)


class PillarEncoder(nn.Module):
    """Encodes the points of each pillar by a small point network and keeps the maximum.

    Args:
        grid: Pillars; points outside its extent are dropped.
        channels: Output channels of the layers of the point network.
    """

    def __init__(self, *, grid: BevGrid, channels: Sequence[int]) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ValueError(
                f"the point network needs at least one layer of at least one channel, but has {tuple(channels)}"
            )
        self.grid = grid
        self.channels = channels[-1]
        layers: list[nn.Module] = []
        for before, after in zip([NUM_FEATURES, *channels], channels, strict=False):
            layers += [nn.Linear(before, after, bias=False), PointNorm(after), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, points: Sequence[Tensor]) -> Tensor:
        """Draw clouds on the grid.

        Args:
            points: B x (P_b, 5) float32 [x y z intensity lag] in the ego frame; a cloud may be empty.

        Returns:
            (B, C, rows, cols); zero where there is no point.

        Raises:
            ValueError: A cloud has another shape.
        """
        for item, cloud in enumerate(points):
            if cloud.ndim != 2 or cloud.shape[1] != POINT_SIZE:
                expected = f"(P, {POINT_SIZE}) [x y z intensity lag]"
                raise ValueError(f"points of batch item {item} must be {expected}, but are {tuple(cloud.shape)}")
        points_N5, pillar_N = self._sorted_by_pillar(points)
        pillar_V, counts_V = torch.unique_consecutive(pillar_N, return_counts=True)
        features_NC = self.layers(self._features(points_N5, pillar_N, counts_V))
        features_VC = _reduce_runs(features_NC, counts_V, "max")
        canvas = features_VC.new_zeros(len(points) * self.grid.rows * self.grid.cols, self.channels)
        canvas = canvas.index_copy(0, pillar_V, features_VC)
        return canvas.unflatten(0, (len(points), self.grid.rows, self.grid.cols)).permute(0, 3, 1, 2).contiguous()

    def _sorted_by_pillar(self, points: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Points (N, 5) inside the extent and their rising pillars (N,) int64, counted over items, rows, columns."""
        item = torch.cat(
            [cloud.new_full((len(cloud),), index, dtype=torch.int64) for index, cloud in enumerate(points)]
        )
        cloud_N5 = torch.cat(list(points))
        inside = self.grid.contains(cloud_N5[:, :3]).nonzero().squeeze(1)
        item, cloud_N5 = item[inside], cloud_N5[inside]
        # Rounding may put a point below the upper border one cell too far.
        column = _whole_cells(cloud_N5[:, 0], self.grid.x_min, self.grid.cell_size[0], self.grid.cols)
        row = _whole_cells(cloud_N5[:, 1], self.grid.y_min, self.grid.cell_size[1], self.grid.rows)
        pillar, order = ((item * self.grid.rows + row) * self.grid.cols + column).sort(stable=True)
        return cloud_N5[order], pillar

    def _features(self, points: Tensor, pillar: Tensor, counts: Tensor) -> Tensor:
        """Inputs (N, 10) of the point network, see NUM_FEATURES."""
        place, rest = points[:, :3], points[:, 3:]
        cell_size = constant_like(place, self.grid.cell_size)
        mean = _reduce_runs(place, counts, "mean").repeat_interleave(counts, dim=0, output_size=len(place))
        cell = torch.stack([pillar % self.grid.cols, pillar // self.grid.cols % self.grid.rows], dim=-1)
        centre = self.grid.metres_from_cells(cell.to(place.dtype))
        scale = torch.cat([cell_size, place.new_ones(1)])
        return torch.cat(
            [2 * self.grid.normalize(place) - 1, rest, (place - mean) / scale, (place[:, :2] - centre) / cell_size],
            dim=-1,
        )


def _whole_cells(metres: Tensor, low: float, size: float, count: int) -> Tensor:
    return ((metres - low) / size).long().clamp(0, count - 1)


def _reduce_runs(values: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Reduce runs of neighbouring rows of (N, C), of lengths (V,), to (V, C)."""
    if not len(counts):
        return values[:0]
    reduced: Tensor = torch.segment_reduce(values, reduction, lengths=counts, axis=0, unsafe=True)
    return reduced

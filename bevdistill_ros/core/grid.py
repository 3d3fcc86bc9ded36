"""The bird's-eye-view grid, the one owner of the BEV extent.

A BEV map is (B, C, rows, cols). Rows run along y (left of the ego), columns along x (ahead of the ego), both upwards:
cell (0, 0) is the corner at (x_min, y_min). So a BEV coordinate normalised to [0, 1] is (x, y) = (column, row), the
order that `torch.nn.functional.grid_sample` takes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


class Region(Protocol):
    """A part of the space around the ego."""

    def contains(self, points: Tensor) -> Tensor:
        """Whether points (..., 3) [m] of the ego frame lie in it: bool (...)."""


@dataclass(frozen=True, kw_only=True)
class BevGrid:
    """Extent and resolution of the BEV map in the ego frame.

    The default height range is the -5...3 m of the LiDAR frame in the literature, moved up by the sensor's place 1.84
    m above the road to the ego frame, and rounded.
    """

    x_min: float = -51.2  # [m]
    x_max: float = 51.2  # [m]
    y_min: float = -51.2  # [m]
    y_max: float = 51.2  # [m]
    z_min: float = -3.0  # [m]
    z_max: float = 5.0  # [m]
    rows: int = 128  # cells along y
    cols: int = 128  # cells along x

    def __post_init__(self) -> None:
        for axis in "xyz":
            low, high = getattr(self, f"{axis}_min"), getattr(self, f"{axis}_max")
            if not low < high:
                raise ValueError(f"grid.{axis}_min must be below grid.{axis}_max, but they are {low} and {high}")
        if self.rows < 1 or self.cols < 1:
            raise ValueError(f"grid.rows and grid.cols must be at least 1, but they are {self.rows} and {self.cols}")

    @property
    def cell_size(self) -> tuple[float, float]:
        """Size of a cell along x and y [m]."""
        return (self.x_max - self.x_min) / self.cols, (self.y_max - self.y_min) / self.rows

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the grid, x and y [m]."""
        return (self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2

    def normalize(self, points: Tensor) -> Tensor:
        """Map metres (..., 2 or 3) to [0, 1] over the extent; points outside map outside."""
        low, size = self._low_and_size(points)
        return (points - low) / size

    def denormalize(self, points: Tensor) -> Tensor:
        """Map [0, 1] (..., 2 or 3) back to metres; inverse of `normalize`."""
        low, size = self._low_and_size(points)
        return points * size + low

    def cells_from_metres(self, points: Tensor) -> Tensor:
        """Map x, y [m] (..., 2) to (column, row) where whole numbers are cell centres."""
        scale = constant_like(points, (self.cols, self.rows))
        return self.normalize(points) * scale - 0.5

    def metres_from_cells(self, cells: Tensor) -> Tensor:
        """Map (column, row) (..., 2) to x, y [m]; inverse of `cells_from_metres`."""
        scale = constant_like(cells, (self.cols, self.rows))
        return self.denormalize((cells + 0.5) / scale)

    def cell_centres(self, device: torch.device | str | None = None) -> Tensor:
        """Centres x, y [m] of all cells: (rows, cols, 2) float32."""
        row, col = torch.meshgrid(
            torch.arange(self.rows, device=device, dtype=torch.float32),
            torch.arange(self.cols, device=device, dtype=torch.float32),
            indexing="ij",
        )
        return self.metres_from_cells(torch.stack([col, row], dim=-1))

    def contains(self, points: Tensor) -> Tensor:
        """Whether points (..., 2 or 3) [m] lie in the extent: bool (...); the upper border is outside."""
        unit = self.normalize(points)
        return ((unit >= 0) & (unit < 1)).all(dim=-1)

    def sample(self, bev: Tensor, points: Tensor) -> Tensor:
        """Bilinear samples of a BEV map.

        Args:
            bev: (B, C, rows, cols) on this grid; cell centres hold the values, and beyond the map lies zero.
            points: x, y [m] (B, N, 2) in the ego frame.

        Returns:
            (B, N, C) float32.
        """
        place = self.normalize(points.float()) * 2 - 1
        sampled = grid_sample(bev.float(), place.unsqueeze(2), align_corners=False)
        return sampled.squeeze(-1).transpose(1, 2)

    def with_cells(self, rows: int, cols: int) -> "BevGrid":
        """The same extent at another resolution."""
        return BevGrid(**{**self.__dict__, "rows": rows, "cols": cols})

    def _low_and_size(self, points: Tensor) -> tuple[Tensor, Tensor]:
        axes = "xyz"[: points.shape[-1]]
        low = [getattr(self, f"{axis}_min") for axis in axes]
        high = [getattr(self, f"{axis}_max") for axis in axes]
        low_axes, high_axes = constant_like(points, low), constant_like(points, high)
        return low_axes, high_axes - low_axes


def constant_like(tensor: Tensor, values: Sequence[float]) -> Tensor:
    """Values (K,) in the dtype and on the device of a tensor, filled in there.

    `new_tensor` would copy them from the host, which waits until a GPU has finished all its queued work.
    """
    return torch.cat([tensor.new_full((1,), value) for value in values])

"""LiDAR sweeps: reading, bringing several into one ego frame, cutting to the grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid

OWN_VEHICLE = (
    1.0  # [m] half side of a square around the sensor whose points are the vehicle itself, as nuscenes-devkit cuts it
)
_MAX_RANGE = 500.0  # [m] that no LiDAR's points exceed
_MIN_RANGE = 1.0  # [m] that some of a sweep's points exceed
_MAX_RINGS = 512
_TOLERATED = 0.01  # share of points that may be out of bounds


@dataclass(frozen=True, kw_only=True)
class PointLayout:
    """How LiDAR files hold their points: one after the other, `columns` numbers each."""

    columns: tuple[str, ...] = ("x", "y", "z", "intensity", "ring")  # of each point, in m; intensity and more may lack
    dtype: Literal["float32", "float64"] = "float32"  # little endian
    max_intensity: float = 255.0  # the intensity of a full reflection in these files

    def __post_init__(self) -> None:
        missing = [name for name in "xyz" if name not in self.columns]
        if missing or len(set(self.columns)) != len(self.columns):
            raise ValueError(f"data.points.columns must name x, y, z once each, but is {', '.join(self.columns)}")
        if not self.max_intensity > 0:
            raise ValueError(f"data.points.max_intensity must be above 0, but is {self.max_intensity}")

    @property
    def point_bytes(self) -> int:
        """Bytes of a point."""
        return len(self.columns) * np.dtype(self.dtype).itemsize

    @property
    def place_columns(self) -> list[int]:
        """Where x, y and z stand."""
        return [self.columns.index(name) for name in "xyz"]

    def column(self, name: str, points: np.ndarray) -> np.ndarray | None:
        """Values (P,) of a column of points (P, C); None where there is no such column."""
        return points[:, self.columns.index(name)] if name in self.columns else None

    def __str__(self) -> str:
        return f"[{', '.join(self.columns)}] {self.dtype}, intensities up to {self.max_intensity:g}"


NUSCENES_LAYOUT = PointLayout()


def read_points(path: Path, layout: PointLayout = NUSCENES_LAYOUT) -> np.ndarray:
    """Read a LiDAR file as (P, C) in its own columns: x, y, z [m] in the sensor frame, and what the layout names.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, or holds values that are not finite.
    """
    try:
        values = np.fromfile(path, dtype=np.dtype(layout.dtype))
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"LiDAR file {path} is missing; unpack the LiDAR files of the data set in full"
        ) from error
    if size % layout.point_bytes:
        raise ValueError(
            f"LiDAR file {path} is cut off or of another layout: {size} bytes are not a whole number of points of "
            f"{layout.point_bytes} bytes ({layout}); copy it again, or set data.points"
        )
    points = values.reshape(-1, len(layout.columns))
    used = [column for name in ("x", "y", "z", "intensity") if (column := layout.column(name, points)) is not None]
    if not np.isfinite(np.stack(used)).all():
        raise ValueError(
            f"LiDAR file {path} holds points that are not finite; leave them out, or set data.points to the layout of "
            "the file"
        )
    return points


def check_points(path: Path, layout: PointLayout) -> None:
    """Refuse a LiDAR file whose values can't be those of its layout; one that is missing or empty passes.

    Raises:
        ValueError: It is cut off, or its ranges, intensities or rings can't be right; the message says which.
    """
    if not path.is_file() or not len(points := read_points(path, layout).astype(np.float64)):
        return
    reach = np.abs(points[:, layout.place_columns]).max(axis=1)
    checks = {f"lie further than {_MAX_RANGE:g} m": reach > _MAX_RANGE}
    if (intensity := layout.column("intensity", points)) is not None:
        low, high = 0.0, 1.01 * layout.max_intensity
        checks[f"have an intensity outside 0...{layout.max_intensity:g}"] = (intensity < low) | (intensity > high)
    if (ring := layout.column("ring", points)) is not None:
        checks[f"have a ring that is not a whole number below {_MAX_RINGS}"] = (
            (ring != np.round(ring)) | (ring < 0) | (ring >= _MAX_RINGS)
        )
    faults = {words: float(wrong.mean()) for words, wrong in checks.items() if wrong.mean() > _TOLERATED}
    if not faults and (reach < _MIN_RANGE).mean() > 1 - _TOLERATED:
        faults[f"lie within {_MIN_RANGE:g} m"] = float((reach < _MIN_RANGE).mean())
    if faults:
        listed = ", ".join(f"{100 * share:.0f} % of the points {words}" for words, share in faults.items())
        raise ValueError(
            f"LiDAR file {path} does not look like points of {layout}: {listed}; set data.points.columns, "
            "data.points.dtype or data.points.max_intensity to what the files hold"
        )


def load_sweeps(
    files: Sequence[Path],
    ego_from_sweep: np.ndarray,
    lags: np.ndarray,
    *,
    own_vehicle: float = OWN_VEHICLE,
    layout: PointLayout = NUSCENES_LAYOUT,
) -> Tensor:
    """Bring the points of several sweeps into one ego frame.

    Args:
        files: One LiDAR file per sweep.
        ego_from_sweep: (W, 4, 4) [m], from the sensor at each sweep's stamp to the ego frame at the reference stamp.
        lags: (W,) [s], how long before the reference stamp each sweep was taken.
        own_vehicle: Points with |x| and |y| below this [m] in the sensor frame are left out.
        layout: Of the files.

    Returns:
        Points (P, 5) float32 [x y z intensity lag]: m in the ego frame, 0...1 (0 where the files have none), s.
    """
    parts = [np.zeros((0, 5), dtype=np.float32)]
    for path, transform, lag in zip(files, ego_from_sweep, lags, strict=True):
        raw = read_points(path, layout)
        places = raw[:, layout.place_columns]
        kept = (np.abs(places[:, :2]) >= own_vehicle).any(axis=1)
        intensity = layout.column("intensity", raw)
        points = np.empty((int(kept.sum()), 5), dtype=np.float32)
        points[:, :3] = places[kept].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]
        points[:, 3] = 0.0 if intensity is None else intensity[kept] / layout.max_intensity
        points[:, 4] = lag
        parts.append(points)
    return torch.from_numpy(np.concatenate(parts))


def points_on_grid(points: Tensor, grid: BevGrid) -> Tensor:
    """Keep those of the points (P, C), x y z first, that lie in the grid's extent; upper borders are outside."""
    low = points.new_tensor([grid.x_min, grid.y_min, grid.z_min])
    high = points.new_tensor([grid.x_max, grid.y_max, grid.z_max])
    return points[((points[:, :3] >= low) & (points[:, :3] < high)).all(dim=1)]

"""LiDAR sweeps: reading, bringing several into one ego frame, cutting to the grid."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid

FILE_COLUMNS = 5  # x, y, z [m], intensity 0...255, ring; float32
MAX_INTENSITY = 255.0
OWN_VEHICLE = (
    1.0  # [m] half side of a square around the sensor whose points are the vehicle itself, as nuscenes-devkit cuts it
)


def read_points(path: Path) -> np.ndarray:
    """Read a LiDAR file as (P, 5) float32: x, y, z [m] in the sensor frame, intensity in 0...255, ring.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, or holds values that are not finite.
    """
    try:
        values = np.fromfile(path, dtype=np.float32)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"LiDAR file {path} is missing; unpack the LiDAR files of the data set in full"
        ) from error
    if size % (FILE_COLUMNS * values.itemsize):
        raise ValueError(
            f"LiDAR file {path} is cut off: {size} bytes are no whole number of points of "
            f"{FILE_COLUMNS * values.itemsize} bytes; copy it again"
        )
    points = values.reshape(-1, FILE_COLUMNS)
    if not np.isfinite(points[:, :4]).all():
        raise ValueError(f"LiDAR file {path} holds points that are not finite; leave them out of the file")
    return points


def load_sweeps(
    files: Sequence[Path], ego_from_sweep: np.ndarray, lags: np.ndarray, *, own_vehicle: float = OWN_VEHICLE
) -> Tensor:
    """Bring the points of several sweeps into one ego frame.

    Args:
        files: One LiDAR file a sweep.
        ego_from_sweep: (W, 4, 4) [m], from the sensor at each sweep's stamp to the ego frame at the reference stamp.
        lags: (W,) [s], how long before the reference stamp each sweep was taken.
        own_vehicle: Points with |x| and |y| below this [m] in the sensor frame are left out.

    Returns:
        Points (P, 5) float32 [x y z intensity lag]: m in the ego frame, 0...1, s.
    """
    parts = [np.zeros((0, 5), dtype=np.float32)]
    for path, transform, lag in zip(files, ego_from_sweep, lags, strict=True):
        raw = read_points(path)
        raw = raw[(np.abs(raw[:, :2]) >= own_vehicle).any(axis=1)]
        points = np.empty((len(raw), 5), dtype=np.float32)
        points[:, :3] = raw[:, :3].astype(np.float64) @ transform[:3, :3].T + transform[:3, 3]
        points[:, 3] = raw[:, 3] / MAX_INTENSITY
        points[:, 4] = lag
        parts.append(points)
    return torch.from_numpy(np.concatenate(parts))


def points_on_grid(points: Tensor, grid: BevGrid) -> Tensor:
    """Keep those of the points (P, C), x y z first, that lie in the grid's extent; upper borders are outside."""
    low = points.new_tensor([grid.x_min, grid.y_min, grid.z_min])
    high = points.new_tensor([grid.x_max, grid.y_max, grid.z_max])
    return points[((points[:, :3] >= low) & (points[:, :3] < high)).all(dim=1)]

"""Points of a PointCloud2 of any layout, as nuScenes keeps them."""

from typing import Any

import numpy as np

FULL_INTENSITY = 255.0  # of a nuScenes file
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}  # sensor_msgs/PointField
_INTENSITIES = ("intensity", "intensities", "reflectivity", "i")
_RINGS = ("ring", "channel", "line", "laser_id", "ring_id", "row")
_MAX_STEP = 4096  # [bytes] no point is longer


def points_of(cloud: Any, max_intensity: float = FULL_INTENSITY) -> np.ndarray:
    """Points (P, 5) float32 [x y z intensity ring]: m in the sensor frame, 0...255, 0 where there is none.

    Points without an echo (not finite) are left out.

    Args:
        cloud: sensor_msgs/PointCloud2, organised or not, of any type of numbers, order of bytes and padding.
        max_intensity: The intensity of a full reflection; it becomes 255, and what exceeds it is cut off.

    Raises:
        ValueError: The sizes do not fit the data, or x, y, z are missing.
    """
    raw = _rows(cloud)
    names = raw.dtype.names or ()
    if missing := [name for name in "xyz" if name not in names]:
        raise ValueError(f"the cloud has no field {', '.join(missing)}; it has {', '.join(names)}")
    points = np.zeros((len(raw), 5), dtype=np.float32)
    for column, name in enumerate("xyz"):
        points[:, column] = raw[name]
    intensity = next((name for name in _INTENSITIES if name in names), None)
    if intensity is not None:
        values = np.nan_to_num(raw[intensity].astype(np.float32), nan=0.0, posinf=max_intensity, neginf=0.0)
        points[:, 3] = values if max_intensity == FULL_INTENSITY else values * (FULL_INTENSITY / max_intensity)
        np.clip(points[:, 3], 0.0, FULL_INTENSITY, out=points[:, 3])
    ring = next((name for name in _RINGS if name in names), None)
    if ring is not None:
        points[:, 4] = raw[ring]
    finite = np.isfinite(points[:, :3]).all(axis=1)
    return points if finite.all() else points[finite]


def _rows(cloud: Any) -> np.ndarray:
    """The points (P,) with named fields."""
    height, width, step, row_step = cloud.height, cloud.width, cloud.point_step, cloud.row_step
    data = np.asarray(cloud.data, dtype=np.uint8)
    if not height * width:
        return np.zeros(0, dtype=[(name, "f4") for name in "xyz"])
    row_step = row_step if height > 1 or row_step else width * step  # some drivers leave it 0 where there is one row
    if not 1 <= step <= _MAX_STEP or row_step < width * step or len(data) < (height - 1) * row_step + width * step:
        raise ValueError(
            f"a cloud of {height} x {width} points of {step} bytes does not fit its {len(data)} bytes in rows of "
            f"{row_step}"
        )
    if height > 1 and row_step != width * step:
        whole = np.zeros(height * row_step, dtype=np.uint8)
        whole[: min(len(data), len(whole))] = data[: len(whole)]
        data = whole.reshape(height, row_step)[:, : width * step]
    packed = np.ascontiguousarray(data).reshape(-1)[: height * width * step]
    return packed.view(_dtype(cloud, step))


def _dtype(cloud: Any, step: int) -> np.dtype:
    order = ">" if cloud.is_bigendian else "<"
    fields: dict[str, tuple[str, int]] = {}
    for entry in cloud.fields:
        kind, name = _TYPES.get(entry.datatype), entry.name.lower()
        if kind is None or entry.offset + int(kind[1]) > step:
            raise ValueError(f"the field '{entry.name}' does not fit into a point of {step} bytes")
        if entry.count == 1 or name not in "xyz":
            fields.setdefault(name, (f"{order}{kind}", int(entry.offset)))
    kinds, offsets = zip(*fields.values(), strict=True) if fields else ((), ())
    return np.dtype({"names": list(fields), "formats": list(kinds), "offsets": list(offsets), "itemsize": step})

"""Parts of a split that are scored on their own: distance bands and regions of the map.

A part holds the boxes, of ground truth and detections alike, whose centre lies in it. Where a border runs between an
object and its detection, the object counts as missed in one part and the detection as wrong in the other, so narrow
parts score lower than the whole.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from bevdistill_ros.core.files import read_text
from training.score.boxes import BoxTable

MAX_REGION_BYTES = 1_000_000
BAND_EDGES = (0.0, 20.0, 40.0)  # [m] of the usual distance bands

Part = Callable[[BoxTable], NDArray[np.bool_]]  # which boxes lie in it
Parts = Mapping[str, Part]


def distance_bands(edges: Sequence[float]) -> dict[str, Part]:
    """Bands of distance [m] from the ego vehicle, the last one without an end.

    Raises:
        ValueError: The edges do not rise from 0 on.
    """
    if any(low >= high for low, high in pairwise(edges)) or any(edge < 0 for edge in edges):
        raise ValueError(f"bands must be rising distances from 0 on, but are {', '.join(map(str, edges))}")
    limits = [*edges, math.inf]
    return {_band_name(low, high): _between(low, high) for low, high in pairwise(limits)}


def regions_of(path: Path) -> dict[str, Part]:
    """Polygons of a YAML file, `name: [[x, y], ...]` in the global frame [m].

    Raises:
        ValueError: The file can't be read, or a region is not a polygon of at least three corners.
    """
    try:
        content = yaml.safe_load(read_text(path, what="regions", max_bytes=MAX_REGION_BYTES))
    except yaml.YAMLError as error:
        raise ValueError(f"regions {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not content:
        raise ValueError(f"regions {path} must hold a mapping of names to corners [[x, y], ...] in metres")
    return {str(name): _inside(polygon_of(corners, f"regions {path}: {name}")) for name, corners in content.items()}


def polygon_of(corners: object, what: str) -> Polygon:
    """A polygon of corners [[x, y], ...] in metres; a ValueError, with what it should be, where they make none."""
    try:
        points = np.array(corners, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1:] != (2,) or len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"{what} must be at least three corners [x, y] in metres")
    return Polygon(points)


def _band_name(low: float, high: float) -> str:
    return f"{low:g} m and more" if math.isinf(high) else f"{low:g} to {high:g} m"


def _between(low: float, high: float) -> Part:
    return lambda boxes: (low <= boxes.distance) & (boxes.distance < high)


def _inside(polygon: Polygon) -> Part:
    return lambda boxes: np.asarray(polygon.contains_points(boxes.centre), dtype=np.bool_).reshape(len(boxes))

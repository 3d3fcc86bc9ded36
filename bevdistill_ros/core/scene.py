"""The part of the world that a road camera is for: where objects stand, and where a camera's image shows them.

Objects up to 1.5 m high at 3 to 8 m from the camera, up to 2 m high (people, cars) to 25 m and up to 3.5 m high (buses,
trucks) to 50 m, all on the ground plane of the ego frame. So the horizon, far away, counts most.
"""

import math

import numpy as np

_STEP_DEG = 2.0  # [degrees] between directions
_HEIGHTS: dict[tuple[float, ...], tuple[float, ...]] = {  # distances [m]: heights above ground [m]
    (3.0, 5.0): (0.0, 0.75, 1.5),
    (8.0, 12.0, 18.0): (0.0, 1.0, 2.0),
    (25.0, 35.0, 50.0): (0.0, 1.75, 3.5),
}
NEAREST, FARTHEST = 3.0, 50.0  # [m]


def object_pixels(matrix: np.ndarray, ego_from_camera: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where the image of a camera shows points of objects around it.

    Args:
        matrix: (3, 3) float64 [px].
        ego_from_camera: (4, 4) float64 [m], the fixed mounting.
        size: Height and width of the image [px].

    Returns:
        Pixels (P, 2) float64 of the points inside the image, u right and v down; P is 0 where it shows none.
    """
    place, rotation = ego_from_camera[:3, 3], ego_from_camera[:3, :3]
    points = _POINTS + np.array([place[0], place[1], 0.0])
    rays = (points - place) @ rotation @ matrix.T
    rays = rays[rays[:, 2] > 0]
    pixels = rays[:, :2] / rays[:, 2:]
    inside = (pixels >= -0.5).all(axis=1) & (pixels < (size[1] - 0.5, size[0] - 0.5)).all(axis=1)
    return np.asarray(pixels[inside])


def horizon_row(matrix: np.ndarray, ego_from_camera: np.ndarray, column: float) -> float:
    """Row [px] where the horizon crosses a column; NaN where it does not, as for a camera turned on its side.

    A ray (u, v, 1) of the image is level if its direction in the ego frame has no part along z.
    """
    level = ego_from_camera[2, :3] @ np.linalg.inv(matrix)
    return math.nan if abs(level[1]) < 1e-12 else float(-(level[0] * column + level[2]) / level[1])


def _points() -> np.ndarray:
    """Points (P, 3) [m] around the place on the ground below a camera."""
    angles = np.radians(np.arange(0.0, 360.0, _STEP_DEG))
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    circles = [
        np.column_stack([distance * ring, np.full(len(ring), height)])
        for distances, heights in _HEIGHTS.items()
        for distance in distances
        for height in heights
    ]
    return np.concatenate(circles)


_POINTS = _points()

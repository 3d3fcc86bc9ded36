"""A contact sheet that shows where a rig says the ground is: rings and the ego axes in every camera, and from above.

On a right rig the rings lie on the road, 10 m away, and the horizon lies on the horizon.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.core.wireframe import line_segments
from bevdistill_ros.doctor.checks.rig import CameraView, describe

CELL_WIDTH = 640  # [px] of a camera's picture
COLUMNS = 3
RINGS = {5.0: 1, 10.0: 3, 20.0: 1}  # radius [m]: thickness [px]
HORIZON = 1e5  # [m] a circle of this radius is seen on the horizon
RING_STEPS = 720
AXIS_LENGTH = 25.0  # [m]
REACH = 22.0  # [m] of the view from above
POLE = 1.0  # [m] height of the poles where the axes meet the 10 m ring
OFF_PICTURE = 30_000  # [px] OpenCV's lines take 16-bit coordinates
FONT = cv2.FONT_HERSHEY_SIMPLEX

Colour = tuple[int, int, int]  # blue, green, red
RING_COLOUR: Colour = (0, 220, 255)
HORIZON_COLOUR: Colour = (200, 200, 200)
AXES: dict[str, tuple[tuple[float, float], Colour]] = {  # label: direction x, y
    "+x ahead": ((1.0, 0.0), (60, 60, 255)),
    "-x": ((-1.0, 0.0), (60, 60, 140)),
    "+y left": ((0.0, 1.0), (60, 220, 60)),
    "-y right": ((0.0, -1.0), (40, 130, 40)),
}
POLE_COLOUR: Colour = (255, 120, 40)
CANVAS: Colour = (70, 70, 70)
GROUND: Colour = (24, 24, 24)
INK: Colour = (235, 235, 235)
WARNING: Colour = (80, 80, 255)


def draw_rig(views: Sequence[CameraView], images: Mapping[str, np.ndarray]) -> np.ndarray:
    """The contact sheet.

    Args:
        views: The cameras.
        images: Undistorted images (h, w, 3) uint8 RGB by camera; a camera without one gets a plain canvas.

    Returns:
        (h, w, 3) uint8 BGR, as image files hold it.
    """
    cells = [_draw_camera(view, images.get(view.name)) for view in views]
    rows = [_beside(cells[start : start + COLUMNS]) for start in range(0, len(cells), COLUMNS)]
    width = max(row.shape[1] for row in rows)
    ring = np.vstack([_padded(row, row.shape[0], width) for row in rows])
    return _beside([ring, _draw_from_above(views)])


def save_picture(path: Path, views: Sequence[CameraView], images: Mapping[str, np.ndarray]) -> Path:
    """Write the contact sheet as PNG; returns its path.

    Raises:
        ValueError: It cannot be written.
    """
    path = path if path.suffix else path.with_suffix(".png")
    try:
        content = cv2.imencode(path.suffix, draw_rig(views, images))[1]
    except cv2.error as error:
        raise ValueError(f"picture '{path}' cannot be written as {path.suffix}; choose .png or .jpg") from error
    try:
        with atomic_file(path) as partial:
            partial.write_bytes(content.tobytes())  # cv2.imwrite does not report a full disk
    except OSError as error:
        raise ValueError(f"picture '{path}' cannot be written: {error}") from error
    return path


def images_in(folder: Path, cameras: Sequence[str]) -> dict[str, np.ndarray]:
    """One image (h, w, 3) uint8 RGB a camera out of `folder/CAMERA.*` or the first of `folder/CAMERA/*`.

    Raises:
        ValueError: There is no such folder, or none of its files is an image of one of the cameras.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder of images '{folder}'")
    images = {}
    for camera in cameras:
        for path in sorted([*folder.glob(f"{camera}.*"), *(folder / camera).glob("*")]):
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if picture is not None:
                images[camera] = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
                break
    if not images:
        raise ValueError(f"folder '{folder}' has no image named like {cameras[0]}.jpg or {cameras[0]}/*.jpg")
    return images


def _draw_camera(view: CameraView, image: np.ndarray | None) -> np.ndarray:
    rows, cols = view.size
    cell = (CELL_WIDTH, max(round(rows * CELL_WIDTH / cols), 1))
    if image is None:
        picture = np.full((cell[1], cell[0], 3), CANVAS, dtype=np.uint8)
    else:
        picture = np.asarray(cv2.cvtColor(cv2.resize(image, cell, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR))
    pen = _Pen(view, picture)
    pen.draw(_circle(HORIZON), HORIZON_COLOUR, 1, "horizon", at=0.85)
    sees_ground = False
    for radius, thickness in RINGS.items():
        sees_ground |= pen.draw(_circle(radius), RING_COLOUR, thickness, f"{radius:.0f} m", at=0.25)
    for label, ((x, y), colour) in AXES.items():
        pen.draw(_line((0.0, 0.0, 0.0), (AXIS_LENGTH * x, AXIS_LENGTH * y, 0.0)), colour, 2, label, at=0.5)
        pen.draw(_line((10 * x, 10 * y, 0.0), (10 * x, 10 * y, POLE)), POLE_COLOUR, 2, "", at=0.5)
    _write(picture, view.name, (8, 20), 0.55)
    _write(picture, describe(view), (8, cell[1] - 10), 0.38)
    if not sees_ground:
        _write(picture, "none of the rings is in view", (8, 44), 0.5, WARNING)
    return picture


class _Pen:
    """Draws lines on the ground into a camera's picture.

    Args:
        view: The camera.
        picture: (h, w, 3) uint8 BGR, drawn into.
    """

    def __init__(self, view: CameraView, picture: np.ndarray) -> None:
        image_from_camera = torch.eye(4, dtype=torch.float64)
        image_from_camera[:3, :3] = torch.from_numpy(view.matrix)
        self._image_from_ego = image_from_camera @ invert_rigid(torch.from_numpy(view.ego_from_camera))
        self._size = view.size
        self._picture = picture
        self._scale = np.array([picture.shape[1] / view.size[1], picture.shape[0] / view.size[0]])

    def draw(self, lines: Tensor, colour: Colour, thickness: int, label: str, *, at: float) -> bool:
        """Draw lines (S, 2, 3) [m] in the ego frame, and name them near this part of the picture's width.

        Returns:
            Whether the picture shows any of them.
        """
        segments = line_segments(lines, self._image_from_ego, *self._size).numpy()
        ends = ((segments + 0.5) * self._scale - 0.5).clip(-OFF_PICTURE, OFF_PICTURE).round().astype(int)
        for first, second in ends.tolist():
            cv2.line(self._picture, first, second, colour, thickness, cv2.LINE_AA)
        rows, cols = self._picture.shape[:2]
        middles = ends.mean(axis=1)
        shown = middles[(middles >= (4, 30)).all(axis=1) & (middles < (cols - 60, rows - 30)).all(axis=1)]
        if label and len(shown):
            u, v = shown[np.abs(shown[:, 0] - at * cols).argmin()]
            _write(self._picture, label, (int(u) + 5, int(v) - 5), 0.42, colour)
        return len(segments) > 0


def _draw_from_above(views: Sequence[CameraView]) -> np.ndarray:
    """Rings, axes and each camera's field of view from above, ahead is up."""
    picture = np.full((CELL_WIDTH, CELL_WIDTH, 3), GROUND, dtype=np.uint8)
    scale = CELL_WIDTH / 2 / REACH

    def pixel(x: float, y: float) -> tuple[int, int]:
        return round(CELL_WIDTH / 2 - y * scale), round(CELL_WIDTH / 2 - x * scale)

    for radius, thickness in RINGS.items():
        cv2.circle(picture, pixel(0, 0), round(radius * scale), RING_COLOUR, thickness, cv2.LINE_AA)
        _write(picture, f"{radius:.0f} m", pixel(-radius, 0), 0.42, RING_COLOUR)
    for (x, y), colour in AXES.values():
        cv2.line(picture, pixel(0, 0), pixel(REACH * x, REACH * y), colour, 2, cv2.LINE_AA)
    for view in views:
        x, y = view.ego_from_camera[:2, 3]
        yaw, half = math.radians(view.yaw), math.radians(view.field_of_view / 2)
        for angle in (yaw - half, yaw + half):
            end = pixel(x + 17 * math.cos(angle), y + 17 * math.sin(angle))
            cv2.line(picture, pixel(x, y), end, INK, 1, cv2.LINE_AA)
        u, v = pixel(x + 14 * math.cos(yaw), y + 14 * math.sin(yaw))
        _write(picture, view.name, (u - 4 * len(view.name), v), 0.42)
    return picture


def _circle(radius: float) -> Tensor:
    """Lines (S, 2, 3) [m] of a circle on the ground around the ego origin."""
    angles = torch.arange(RING_STEPS + 1, dtype=torch.float64) * (2 * math.pi / RING_STEPS)
    points = torch.stack([radius * angles.cos(), radius * angles.sin(), torch.zeros_like(angles)], dim=-1)
    return torch.stack([points[:-1], points[1:]], dim=1)


def _line(start: tuple[float, float, float], end: tuple[float, float, float], steps: int = 50) -> Tensor:
    """A line as short ones (S, 2, 3) [m], so that it can be named where it is seen."""
    first, last = torch.tensor([start, end], dtype=torch.float64)
    points = first + torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None] * (last - first)
    return torch.stack([points[:-1], points[1:]], dim=1)


def _write(picture: np.ndarray, text: str, place: tuple[int, int], size: float, colour: Colour = INK) -> None:
    cv2.putText(picture, text, place, FONT, size, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture, text, place, FONT, size, colour, 1, cv2.LINE_AA)


def _beside(cells: Sequence[np.ndarray]) -> np.ndarray:
    height = max(cell.shape[0] for cell in cells)
    return np.hstack([_padded(cell, height, cell.shape[1]) for cell in cells])


def _padded(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    padded = np.zeros((height, width, 3), dtype=np.uint8)
    padded[: picture.shape[0], : picture.shape[1]] = picture
    return padded

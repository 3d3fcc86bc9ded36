"""A picture of a set: the cameras with boxes drawn into them, and the boxes from above."""

import math

import cv2
import numpy as np

from bevdistill_ros.core.boxes import corners_bev
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import CLASS_COLOURS, CLASS_NAMES
from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.wireframe import box_segments

OFF_PICTURE = 30_000  # [px] OpenCV's lines take 16-bit coordinates
TICK = 10.0  # [m] between the rings and axis ticks of the view from above
INK = (230, 230, 230)
GROUND = (24, 24, 24)
FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_overlay(frame: CameraFrame, detections: Detections, grid: BevGrid, *, cell_width: int = 480) -> np.ndarray:
    """Cameras in rows of three with boxes, and the view from above to their right.

    Args:
        frame: The set.
        detections: What was found in it, in the ego frame.
        grid: Extent of the view from above.
        cell_width: Width of a camera's picture [px].

    Returns:
        (h, w, 3) uint8 BGR, as image files hold it.
    """
    height, width = frame.rig.image_size
    cell = (cell_width, max(round(height * cell_width / width), 1))
    pictures = [_draw_camera(frame, index, detections, cell) for index in range(len(frame.rig.names))]
    columns = min(3, len(pictures))
    while len(pictures) % columns:
        pictures.append(np.zeros_like(pictures[0]))
    rows = [np.hstack(pictures[start : start + columns]) for start in range(0, len(pictures), columns)]
    ring = np.vstack(rows)
    side = max(ring.shape[0], 240)
    bev = draw_bev(detections, grid, size=side)
    padded = np.zeros((side, ring.shape[1], 3), dtype=np.uint8)
    padded[: ring.shape[0]] = ring
    return np.hstack([padded, bev])


def draw_bev(detections: Detections, grid: BevGrid, *, size: int) -> np.ndarray:
    """Boxes from above, x (ahead) up and y (left) to the left, with axes in metres: (size, size, 3) uint8 BGR."""
    picture = np.full((size, size, 3), GROUND, dtype=np.uint8)
    scale = size / max(grid.x_max - grid.x_min, grid.y_max - grid.y_min)

    def pixel(x: float, y: float) -> tuple[int, int]:
        centre_x, centre_y = grid.centre
        return round(size / 2 - (y - centre_y) * scale), round(size / 2 - (x - centre_x) * scale)

    reach = max(abs(grid.x_min), grid.x_max, abs(grid.y_min), grid.y_max)
    for ring in range(1, math.floor(reach / TICK) + 1):
        cv2.circle(picture, pixel(0, 0), round(ring * TICK * scale), (60, 60, 60), 1, cv2.LINE_AA)
        cv2.putText(
            picture, f"{ring * TICK:.0f} m", pixel(ring * TICK, -0.5), FONT, 0.35, (140, 140, 140), 1, cv2.LINE_AA
        )
    cv2.arrowedLine(picture, pixel(0, 0), pixel(TICK / 2, 0), (60, 60, 230), 2, cv2.LINE_AA)
    cv2.arrowedLine(picture, pixel(0, 0), pixel(0, TICK / 2), (60, 200, 60), 2, cv2.LINE_AA)
    cv2.putText(picture, "x", pixel(TICK / 2 + 1, 0), FONT, 0.4, (60, 60, 230), 1, cv2.LINE_AA)
    cv2.putText(picture, "y", pixel(0, TICK / 2 + 3), FONT, 0.4, (60, 200, 60), 1, cv2.LINE_AA)

    for corners, box, label in zip(
        corners_bev(detections.boxes).tolist(), detections.boxes.tolist(), detections.labels.tolist(), strict=True
    ):
        colour = _colour(label)
        outline = np.array([pixel(x, y) for x, y in corners], dtype=np.int32)
        cv2.polylines(picture, [outline], True, colour, 1, cv2.LINE_AA)
        nose = ((corners[0][0] + corners[3][0]) / 2, (corners[0][1] + corners[3][1]) / 2)
        cv2.line(picture, pixel(box[0], box[1]), pixel(*nose), colour, 1, cv2.LINE_AA)
        if math.hypot(box[7], box[8]) > 0.5:
            cv2.arrowedLine(
                picture, pixel(box[0], box[1]), pixel(box[0] + box[7], box[1] + box[8]), INK, 1, cv2.LINE_AA
            )
    return picture


def encode_jpeg(picture: np.ndarray, quality: int = 80) -> bytes:
    """JPEG of a (h, w, 3) uint8 BGR picture."""
    done, content = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "JPEG encoding failed"
    return bytes(content.tobytes())


def _draw_camera(frame: CameraFrame, index: int, detections: Detections, cell: tuple[int, int]) -> np.ndarray:
    name = frame.rig.names[index]
    image = frame.images[index].permute(1, 2, 0).numpy()
    picture = cv2.cvtColor(cv2.resize(image, cell, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    scale = np.array([cell[0] / image.shape[1], cell[1] / image.shape[0]])
    image_from_ego = frame.rig.image_from_ego()[index].double()
    per_box = box_segments(detections.boxes, image_from_ego, *image.shape[:2])
    for segments, label in zip(per_box, detections.labels.tolist(), strict=True):
        ends = ((segments.numpy() + 0.5) * scale - 0.5).clip(-OFF_PICTURE, OFF_PICTURE).round().astype(int)
        for first, second in ends.tolist():
            cv2.line(picture, first, second, _colour(label), 1, cv2.LINE_AA)
    text = name if bool(frame.valid[index]) else f"{name}: missing"
    cv2.putText(picture, text, (8, 18), FONT, 0.45, (0, 0, 0), 3, cv2.LINE_AA)
    cv2.putText(picture, text, (8, 18), FONT, 0.45, INK, 1, cv2.LINE_AA)
    return np.asarray(picture)


def _colour(label: int) -> tuple[int, int, int]:
    red, green, blue = CLASS_COLOURS[CLASS_NAMES[label]]
    return round(255 * blue), round(255 * green), round(255 * red)

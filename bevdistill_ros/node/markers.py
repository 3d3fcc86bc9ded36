"""Detections as shapes for a 3D viewer."""

import math
from collections import deque
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from bevdistill_ros.core.nuscenes import CLASS_COLOURS, CLASS_NAMES, MOTION_THRESHOLD, Colour
from bevdistill_ros.core.records import Detections

BOX_OPACITY = 0.45
ARROW_WIDTH = 0.25  # [m]
LABEL_HEIGHT = 0.8  # [m]
PERIODS_OF_LIFE = 1.5


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Something to draw in the frame of the detections."""

    namespace: Literal["boxes", "velocities", "labels"]
    number: int  # the place in the list of detections; a later set's shape of the same number takes its place
    centre: tuple[float, float, float]  # [m]
    yaw: float  # [rad]
    size: tuple[float, float, float]  # along the shape's own axes [m]
    colour: Colour
    opacity: float
    text: str = ""


class Lifetime:
    """How long shapes stay: a little longer than the sets are apart, so that old ones vanish when no more come."""

    def __init__(self) -> None:
        self._gaps: deque[float] = deque(maxlen=9)
        self._last_ns: int | None = None

    def after(self, stamp_ns: int) -> float:
        """Lifetime [s] of the shapes of a set, in 0.1...2."""
        if self._last_ns is not None and stamp_ns > self._last_ns:
            self._gaps.append((stamp_ns - self._last_ns) / 1e9)
        self._last_ns = stamp_ns
        period = median(self._gaps) if self._gaps else 0.5
        return min(max(PERIODS_OF_LIFE * period, 0.1), 2.0)


def shapes_of(detections: Detections) -> list[Shape]:
    """A box and a label for each detection, and an arrow for each that moves: as long as its way in one second."""
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    return [
        shape
        for number, (box, score, label) in enumerate(rows)
        for shape in _shapes_of_one(number, box, score, CLASS_NAMES[label])
    ]


def _shapes_of_one(number: int, box: list[float], score: float, name: str) -> list[Shape]:
    x, y, z, length, width, height, yaw, vx, vy = box
    colour, speed = CLASS_COLOURS[name], math.hypot(vx, vy)
    solid = Shape(
        namespace="boxes",
        number=number,
        centre=(x, y, z),
        yaw=yaw,
        size=(length, width, height),
        colour=colour,
        opacity=BOX_OPACITY,
    )
    label = replace(
        solid,
        namespace="labels",
        centre=(x, y, z + height / 2 + LABEL_HEIGHT),
        yaw=0.0,
        size=(LABEL_HEIGHT, LABEL_HEIGHT, LABEL_HEIGHT),
        opacity=1.0,
        text=f"{name} {score:.2f}",
    )
    if speed <= MOTION_THRESHOLD:
        return [solid, label]
    size = (speed, ARROW_WIDTH, ARROW_WIDTH)
    return [solid, label, replace(solid, namespace="velocities", yaw=math.atan2(vy, vx), size=size, opacity=1.0)]

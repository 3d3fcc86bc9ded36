"""Boxes of a split as columns, as the devkit loads and filters them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.common.data_classes import EvalBoxes

from bevdistill_ros.core.nuscenes import CLASS_NAMES

_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}


@dataclass(frozen=True, kw_only=True)
class BoxTable:
    """Boxes in the global frame, one row each; all arrays have N rows."""

    frame: NDArray[np.int64]  # number of the sample
    label: NDArray[np.int64]  # place in CLASS_NAMES
    centre: NDArray[np.float64]  # (N, 2) x, y [m]
    size: NDArray[np.float64]  # (N, 3) width, length, height [m]
    yaw: NDArray[np.float64]  # [rad]
    velocity: NDArray[np.float64]  # (N, 2) [m/s], NaN where unknown
    attribute: NDArray[np.str_]  # empty where there is none
    score: NDArray[np.float64]  # 0...1; -1 of ground truth
    distance: NDArray[np.float64]  # from the ego vehicle, on the ground [m]

    def __len__(self) -> int:
        return len(self.frame)

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the rows, by mask or number."""
        return type(self)(**{column.name: getattr(self, column.name)[rows] for column in fields(self)})


def table_of(boxes: EvalBoxes, tokens: Sequence[str]) -> BoxTable:
    """Columns of the devkit's boxes.

    Args:
        boxes: By sample, with their place relative to the ego vehicle.
        tokens: Of the samples, in the order of their numbers.
    """
    rows = [(number, box) for number, token in enumerate(tokens) for box in boxes[token]]
    found = [box for _, box in rows]

    def column(values: Sequence[Any], width: int) -> NDArray[np.float64]:
        return np.array(values, dtype=np.float64).reshape(-1, width)

    ego = column([box.ego_translation[:2] for box in found], 2)
    return BoxTable(
        frame=np.array([number for number, _ in rows], dtype=np.int64),
        label=np.array([_LABELS[box.detection_name] for box in found], dtype=np.int64),
        centre=column([box.translation[:2] for box in found], 2),
        size=column([box.size for box in found], 3),
        yaw=yaw_of_quaternions(column([box.rotation for box in found], 4)),
        velocity=column([box.velocity for box in found], 2),
        attribute=np.array([box.attribute_name for box in found], dtype=np.str_),
        score=np.array([box.detection_score for box in found], dtype=np.float64),
        distance=np.sqrt((ego**2).sum(axis=1)),
    )


def yaw_of_quaternions(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Heading [rad] of quaternions w, x, y, z (N, 4) of any length."""
    w, x, y, z = rotation.T
    return np.arctan2(2 * (w * z + x * y), w**2 + x**2 - y**2 - z**2)

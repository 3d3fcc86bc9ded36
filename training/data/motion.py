"""How the ego vehicle moved, from its poses: what the node takes from odometry."""

import math

import numpy as np
from torch import Tensor

from bevdistill_ros.core.geometry import quaternion_from_matrix
from bevdistill_ros.inference.frame import motion_from_twist
from training.data.index.arrays import NuScenesIndex


def motion_of(index: NuScenesIndex, number: int) -> Tensor | None:
    """Ego motion (1, 9) of a sample, see `CameraInput.motion`: the mean since the sample before it.

    None at the start of a scene, where it is not known.
    """
    before = int(index.previous[number])
    if before < 0:
        return None
    seconds = float(index.stamps_ns[number] - index.stamps_ns[before]) * 1e-9
    motion = motion_from_twist(twist_between(index.global_from_ego[before], index.global_from_ego[number], seconds))
    return None if motion is None else motion[None]


def twist_between(first: np.ndarray, second: np.ndarray, seconds: float) -> np.ndarray | None:
    """Mean twist (6,) [m/s, rad/s] between two poses (4, 4), in the frame of the second; None where no time passed."""
    if seconds <= 0:
        return None
    linear = second[:3, :3].T @ (second[:3, 3] - first[:3, 3]) / seconds
    w, *vector = quaternion_from_matrix(first[:3, :3].T @ second[:3, :3])
    sine = float(np.linalg.norm(vector))
    angular = np.array(vector) * (2 * math.atan2(sine, w) / max(sine, 1e-12)) / seconds
    return np.concatenate([linear, angular])

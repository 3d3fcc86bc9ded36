"""Where the vehicle was at an image's stamp."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from bevdistill_ros.core.geometry import invert_rigid


class EgoMotion(Protocol):
    """A source of poses."""

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) float64 [m] at a stamp, None where it is unknown."""

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until poses reach up to a stamp; False where they do not within the time."""

    def twist_at(self, stamp_ns: int) -> np.ndarray | None:
        """Twist (6,) [m/s, rad/s], linear and angular in the ego frame, about at a stamp; None where it is unknown."""

    def lag_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies beyond the newest pose [ns], so that its own is extrapolated; 0 where it does not."""

    def forget_after(self, stamp_ns: int) -> None:
        """Forget what is later than a stamp that the clock went back to."""


class NoEgoMotion:
    """The source of a vehicle whose motion is not known."""

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Never known."""
        return None

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Never comes."""
        return False

    def twist_at(self, stamp_ns: int) -> np.ndarray | None:
        """Never known."""
        return None

    def lag_ns(self, stamp_ns: int) -> int:
        """Nothing to lag behind."""
        return 0

    def forget_after(self, stamp_ns: int) -> None:
        """Nothing to forget."""


def compensate(
    ego_from_camera: np.ndarray, reference_pose: np.ndarray | None, poses: Sequence[np.ndarray | None]
) -> tuple[np.ndarray, bool]:
    """Carry each camera's mounting from the ego frame at its own stamp into the ego frame at the reference stamp.

    Args:
        ego_from_camera: Mountings (N, 4, 4) [m].
        reference_pose: odom_from_ego (4, 4) [m] at the reference stamp, None where unknown.
        poses: odom_from_ego (4, 4) [m] at each camera's stamp, None where unknown.

    Returns:
        ego_from_camera (N, 4, 4) float64 at the reference stamp, where a camera without a pose keeps its mounting; and
        whether all poses were known.
    """
    moved = np.array(ego_from_camera, dtype=np.float64)
    if reference_pose is None:
        return moved, False
    # Not np.linalg.inv: OpenBLAS wakes its threads even for this, and they spin for longer than all else here takes.
    ego_from_odom = invert_rigid(torch.from_numpy(reference_pose)).numpy()
    for index, pose in enumerate(poses):
        if pose is not None:
            moved[index] = ego_from_odom @ pose @ moved[index]
    return moved, all(pose is not None for pose in poses)

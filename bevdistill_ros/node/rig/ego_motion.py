"""Where the vehicle was at an image's stamp."""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from bevdistill_ros.core.geometry import interpolate_poses, invert_rigid

REFRESH_PERIOD_S = 0.002  # between two looks for what has come
CLOCK_JUMP_NS = 1_000_000_000  # odometry that falls back by more has had its clock set back


class EgoMotion(Protocol):
    """A source of poses."""

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) float64 [m] at a stamp, None where it is unknown."""

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until poses reach up to a stamp; False where they do not within the time."""

    def forget_after(self, stamp_ns: int) -> None:
        """Forget what is later than a stamp, to which the clock went back."""


class NoEgoMotion:
    """The source of a vehicle that tells nothing of its motion."""

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Never known."""
        return None

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Never comes."""
        return False

    def forget_after(self, stamp_ns: int) -> None:
        """Nothing to forget."""


class OdometryBuffer:
    """Recent odometry, interpolated between its stamps and never beyond them.

    Args:
        keep_s: How far back poses are kept [s].
        max_gap_s: Poses further apart are not interpolated [s].
    """

    def __init__(self, *, keep_s: float = 10.0, max_gap_s: float = 0.5) -> None:
        self._keep = round(keep_s * 1e9)
        self._max_gap = round(max_gap_s * 1e9)
        self._condition = threading.Condition()
        self._stamps: list[int] = []
        self._poses: list[np.ndarray] = []
        self._is_silent = False
        self.refresh: Callable[[], None] = lambda: None  # called while waiting; may add what has come meanwhile

    def add(self, stamp_ns: int, odom_from_ego: np.ndarray) -> None:
        """Store a pose (4, 4) [m]; one that is much older than the newest means that the clock was set back."""
        with self._condition:
            if self._stamps and stamp_ns < self._stamps[-1] - CLOCK_JUMP_NS:
                self._stamps.clear()
                self._poses.clear()
            place = bisect_left(self._stamps, stamp_ns)
            if place < len(self._stamps) and self._stamps[place] == stamp_ns:
                self._poses[place] = odom_from_ego
            else:
                self._stamps.insert(place, stamp_ns)
                self._poses.insert(place, odom_from_ego)
            outdated = bisect_left(self._stamps, self._stamps[-1] - self._keep)
            del self._stamps[:outdated], self._poses[:outdated]
            self._is_silent = False
            self._condition.notify_all()

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) at a stamp: the one of exactly this stamp where there is one, else between its neighbours."""
        with self._condition:
            place = bisect_left(self._stamps, stamp_ns)
            if place == len(self._stamps):
                return None
            if self._stamps[place] == stamp_ns:
                return self._poses[place].copy()
            if place == 0 or self._stamps[place] - self._stamps[place - 1] > self._max_gap:
                return None
            before, after = self._stamps[place - 1], self._stamps[place]
            fraction = (stamp_ns - before) / (after - before)
            return interpolate_poses(self._poses[place - 1], self._poses[place], fraction)

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until odometry reaches a stamp; after a wait in vain, not again until odometry comes."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.refresh()  # without the lock, as others that refresh may add
            with self._condition:
                reached = self._reaches(stamp_ns)
                left = deadline - time.monotonic()
                if reached or self._is_silent or left <= 0:
                    self._is_silent = not reached
                    return reached
                self._condition.wait(min(left, REFRESH_PERIOD_S))

    def forget_after(self, stamp_ns: int) -> None:
        """Forget what is much later than a stamp; odometry may have gone back before the images did."""
        with self._condition:
            last = bisect_left(self._stamps, stamp_ns + CLOCK_JUMP_NS)
            del self._stamps[last:], self._poses[last:]

    def _reaches(self, stamp_ns: int) -> bool:
        return bool(self._stamps) and self._stamps[-1] >= stamp_ns


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

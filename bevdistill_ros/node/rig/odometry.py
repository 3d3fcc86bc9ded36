"""Recent odometry."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.geometry import interpolate_poses
from bevdistill_ros.node.records import CLOCK_JUMP_NS
from bevdistill_ros.node.rig.waiting import wait_until


@dataclass(frozen=True, kw_only=True, eq=False)
class StampedPose:
    """Where the vehicle was."""

    stamp_ns: int
    odom_from_ego: np.ndarray  # (4, 4) float64 [m]


OdometrySource = Callable[[], Iterable[StampedPose]]
"""Gives the poses that are new."""


class OdometryBuffer:
    """Recent odometry, interpolated between its stamps and never beyond them; safe to use from several threads.

    Args:
        source: Asked while waiting.
        keep_s: How far back poses are kept [s].
        max_gap_s: Poses further apart are not interpolated [s].
    """

    def __init__(self, source: OdometrySource, *, keep_s: float = 10.0, max_gap_s: float = 0.5) -> None:
        self._source = source
        self._keep = round(keep_s * 1e9)
        self._max_gap = round(max_gap_s * 1e9)
        self._lock = threading.Lock()
        self._poses: list[StampedPose] = []  # by rising stamp
        self._is_silent = False

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) at a stamp: the one of exactly this stamp where there is one, else between its neighbours."""
        with self._lock:
            place = self._place(stamp_ns)
            if place == len(self._poses):
                return None
            after = self._poses[place]
            if after.stamp_ns == stamp_ns:
                return after.odom_from_ego.copy()
            before = self._poses[place - 1]
            gap = after.stamp_ns - before.stamp_ns
            if place == 0 or gap > self._max_gap:
                return None
            return interpolate_poses(before.odom_from_ego, after.odom_from_ego, (stamp_ns - before.stamp_ns) / gap)

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until odometry reaches a stamp; after a wait in vain, not again until odometry comes."""
        wait_until(lambda: self._reaches(stamp_ns) or self._is_silent, timeout_s)
        reached = self._reaches(stamp_ns)
        self._is_silent = not reached
        return reached

    def forget_after(self, stamp_ns: int) -> None:
        """Forget what is much later than a stamp; odometry may have gone back before the images did."""
        with self._lock:
            del self._poses[self._place(stamp_ns + CLOCK_JUMP_NS) :]

    def _reaches(self, stamp_ns: int) -> bool:
        with self._lock:
            for pose in self._source():
                self._add(pose)
            return bool(self._poses) and self._poses[-1].stamp_ns >= stamp_ns

    def _add(self, pose: StampedPose) -> None:
        """Store a pose; one that is much older than the newest means that the clock was set back."""
        if self._poses and pose.stamp_ns < self._poses[-1].stamp_ns - CLOCK_JUMP_NS:
            self._poses.clear()
        place = self._place(pose.stamp_ns)
        known = place < len(self._poses) and self._poses[place].stamp_ns == pose.stamp_ns
        self._poses[place : place + known] = [pose]
        del self._poses[: self._place(self._poses[-1].stamp_ns - self._keep)]
        self._is_silent = False

    def _place(self, stamp_ns: int) -> int:
        """Index of the first pose that is not before a stamp."""
        return bisect_left(self._poses, stamp_ns, key=lambda pose: pose.stamp_ns)

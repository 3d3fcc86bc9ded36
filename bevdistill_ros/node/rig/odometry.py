"""Recent odometry."""

import math
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.geometry import interpolate_poses, transform_from
from bevdistill_ros.node.records import CLOCK_JUMP_NS
from bevdistill_ros.node.rig.waiting import REAL_TIME, Waiting


@dataclass(frozen=True, kw_only=True, eq=False)
class StampedPose:
    """Where the vehicle was."""

    stamp_ns: int
    odom_from_ego: np.ndarray  # (4, 4) float64 [m]
    twist: np.ndarray | None = None  # (6,) float64 [m/s, rad/s] linear and angular in the ego frame; None: not known


OdometrySource = Callable[[], Iterable[StampedPose]]
"""Gives the poses that are new."""


MIN_BASELINE_NS = 50_000_000  # poses closer together give a poor velocity
VAIN_WAITS = 3  # after so many, odometry is known to come later than it is waited for
RETRY = 20  # sets until it is waited for again


class OdometryBuffer:
    """Recent odometry at any stamp; safe to use from several threads.

    It is interpolated between poses, and extrapolated shortly beyond the newest, as it is often slow or late.

    Args:
        source: Asked while waiting.
        keep_s: How far back poses are kept [s].
        max_gap_s: Poses further apart are not interpolated [s].
        max_extrapolation_s: Stamps further beyond a pose have none [s].
        time: In which poses are waited for.
    """

    def __init__(
        self,
        source: OdometrySource = tuple,
        *,
        keep_s: float = 10.0,
        max_gap_s: float = 0.5,
        max_extrapolation_s: float = 0.0,
        time: Waiting = REAL_TIME,
    ) -> None:
        self._source = source
        self._time = time
        self._keep = round(keep_s * 1e9)
        self._max_gap = round(max_gap_s * 1e9)
        self._max_extrapolation = round(max_extrapolation_s * 1e9)
        self._lock = threading.Lock()
        self._poses: list[StampedPose] = []  # by rising stamp
        self._is_silent = False
        self._vain_waits = 0

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) at a stamp: the one of exactly this stamp where there is one, else by its neighbours."""
        with self._lock:
            place = self._place(stamp_ns)
            after = self._poses[place] if place < len(self._poses) else None
            before = self._poses[place - 1] if place else None
            if after is not None and after.stamp_ns == stamp_ns:
                return after.odom_from_ego.copy()
            if before is None:
                return None
            if after is not None and after.stamp_ns - before.stamp_ns <= self._max_gap:
                return _between(before, after, stamp_ns)
            return self._beyond(before, place - 1, stamp_ns)

    def twist_at(self, stamp_ns: int) -> np.ndarray | None:
        """Twist (6,) [m/s, rad/s] in the ego frame, of the nearest message; None where that says none or is too far."""
        with self._lock:
            place = self._place(stamp_ns)
            nearest = min(
                self._poses[max(place - 1, 0) : place + 1],
                key=lambda pose: abs(pose.stamp_ns - stamp_ns),
                default=None,
            )
        if nearest is None or abs(nearest.stamp_ns - stamp_ns) > self._max_gap:
            return None
        return nearest.twist

    def lag_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies beyond the newest pose [ns]; 0 where it does not."""
        with self._lock:
            return max(stamp_ns - self._poses[-1].stamp_ns, 0) if self._poses else 0

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until odometry reaches a stamp; not where it has not come in time again and again."""
        if self._vain_waits >= VAIN_WAITS and self._vain_waits % RETRY:
            timeout_s = 0.0
        self._time.until(lambda: self._reaches(stamp_ns) or self._is_silent, timeout_s)
        reached = self._reaches(stamp_ns)
        self._is_silent = not reached
        self._vain_waits = 0 if reached else self._vain_waits + 1
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

    def _beyond(self, last: StampedPose, place: int, stamp_ns: int) -> np.ndarray | None:
        """Pose a little after one that no other follows: as the vehicle moved before it, else by its twist."""
        ahead = stamp_ns - last.stamp_ns
        if ahead > self._max_extrapolation:
            return None
        # Over as long a time before as is extrapolated, so that noise of the poses does not grow.
        earliest = self._place(last.stamp_ns - max(ahead, MIN_BASELINE_NS))
        first = self._poses[max(earliest - 1, 0) if place == earliest else earliest]
        if 0 < last.stamp_ns - first.stamp_ns <= self._max_gap:
            return _between(first, last, stamp_ns)
        if last.twist is None:
            return None
        return last.odom_from_ego @ moved_by(last.twist, ahead / 1e9)

    def _place(self, stamp_ns: int) -> int:
        """Index of the first pose that is not before a stamp."""
        return bisect_left(self._poses, stamp_ns, key=lambda pose: pose.stamp_ns)


def moved_by(twist: np.ndarray, seconds: float) -> np.ndarray:
    """Motion (4, 4) [m] of the ego frame at a constant twist (6,) [m/s, rad/s] in that frame."""
    turn = twist[3:] * seconds
    angle = float(np.linalg.norm(turn))
    motion = np.eye(4)
    if angle < 1e-9:
        motion[:3, 3] = twist[:3] * seconds
        return motion
    axis = turn / angle
    quaternion = np.array([math.cos(angle / 2), *(math.sin(angle / 2) * axis)])
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    # Integral of the rotation along the way.
    mean = np.eye(3) + (1 - math.cos(angle)) / angle * cross + (1 - math.sin(angle) / angle) * cross @ cross
    return transform_from(quaternion, mean @ twist[:3] * seconds)


def _between(first: StampedPose, second: StampedPose, stamp_ns: int) -> np.ndarray:
    """Pose (4, 4) on the way through two poses; beyond them along the same motion."""
    fraction = (stamp_ns - first.stamp_ns) / (second.stamp_ns - first.stamp_ns)
    return interpolate_poses(first.odom_from_ego, second.odom_from_ego, fraction)

"""Poses at image stamps, out of odometry."""

import math
import threading
import time
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_yaw, transform_from, yaw_of
from bevdistill_ros.node.rig.odometry import RETRY, VAIN_WAITS, OdometryBuffer, StampedPose, moved_by

SECOND = 1_000_000_000


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform_from(quaternion_from_yaw(yaw), np.array([x, 0.0, 0.0]))


class Drive(OdometryBuffer):
    """A buffer, and the topic that it takes poses from."""

    def __init__(self, **limits: Any) -> None:
        self._waiting: list[StampedPose] = []
        super().__init__(self._take, **limits)

    def add(self, stamp_ns: int, odom_from_ego: np.ndarray, twist: list[float] | None = None) -> None:
        known = None if twist is None else np.array(twist)
        self._waiting.append(StampedPose(stamp_ns=stamp_ns, odom_from_ego=odom_from_ego, twist=known))

    def at(self, stamp_ns: int) -> np.ndarray | None:
        self.wait_for(stamp_ns, 0.0)
        return self.odom_from_ego(stamp_ns)

    def _take(self) -> list[StampedPose]:
        taken, self._waiting = self._waiting, []
        return taken


def test_exact_stamp_gives_the_stored_numbers() -> None:
    drive = Drive()
    stored = pose(1 / 3, 0.1)
    for stamp, odom_from_ego in ((0, pose(0.0)), (7, stored), (9, pose(2.0))):
        drive.add(stamp, odom_from_ego)
    found = drive.at(7)
    assert found is not None
    assert np.array_equal(found, stored)
    found[0, 3] = 99.0
    assert drive.at(7)[0, 3] == 1 / 3


def test_between_stamps_is_interpolated_and_beyond_is_unknown() -> None:
    drive = Drive(max_gap_s=1.0)
    drive.add(10 * SECOND, pose(0.0, 0.0))
    drive.add(11 * SECOND, pose(4.0, 0.4))
    found = drive.at(round(10.25 * SECOND))
    assert found is not None
    np.testing.assert_allclose(found[:3, 3], [1.0, 0.0, 0.0], atol=1e-12)
    assert math.isclose(yaw_of(found[:3, :3]), 0.1, abs_tol=1e-12)
    assert drive.at(10 * SECOND - 1) is None
    assert drive.at(11 * SECOND + 1) is None


def test_late_odometry_is_put_in_order() -> None:
    drive = Drive()
    for stamp, x in ((0, 0.0), (SECOND // 2, 5.0), (SECOND // 4, 1.0)):
        drive.add(stamp, pose(x))
    assert drive.at(SECOND // 8)[0, 3] == 0.5


def test_a_wide_gap_is_not_bridged() -> None:
    drive = Drive(max_gap_s=0.5)
    drive.add(0, pose(0.0))
    drive.add(SECOND, pose(1.0))
    assert drive.at(SECOND // 2) is None


def test_old_poses_go() -> None:
    drive = Drive(keep_s=2.0)
    for second in range(10):
        drive.add(second * SECOND, pose(float(second)))
    assert drive.at(6 * SECOND) is None
    assert drive.at(7 * SECOND)[0, 3] == 7.0


def test_clock_that_goes_back_forgets_the_future() -> None:
    drive = Drive()
    drive.add(100 * SECOND, pose(1.0))
    drive.add(5 * SECOND, pose(2.0))
    assert drive.at(100 * SECOND) is None
    assert drive.at(5 * SECOND)[0, 3] == 2.0


def test_odometry_that_went_back_before_the_images_is_kept() -> None:
    drive = Drive()
    drive.add(5 * SECOND, pose(2.0))
    drive.forget_after(5 * SECOND - 1)
    assert drive.at(5 * SECOND) is not None
    drive.forget_after(3 * SECOND)
    assert drive.at(5 * SECOND) is None


def test_waits_for_odometry_that_is_on_its_way() -> None:
    drive = Drive()
    threading.Timer(0.05, lambda: drive.add(10, pose(0.0))).start()
    assert drive.wait_for(10, timeout_s=5.0)


def test_waits_in_vain_but_once() -> None:
    drive = Drive()
    assert not drive.wait_for(10, timeout_s=0.05)
    started = time.monotonic()
    assert not drive.wait_for(10, timeout_s=5.0)
    assert time.monotonic() - started < 1.0
    drive.add(5, pose(0.0))
    threading.Timer(0.05, lambda: drive.add(10, pose(0.0))).start()
    assert drive.wait_for(10, timeout_s=5.0)


def test_the_last_poses_are_extrapolated_within_a_bound() -> None:
    drive = Drive(max_extrapolation_s=0.25)
    for tenth in range(5):  # 10 Hz, 10 m/s, turning left by 0.5 rad/s
        drive.add(tenth * SECOND // 10, pose(float(tenth), 0.05 * tenth))
    found = drive.at(SECOND * 6 // 10)
    np.testing.assert_allclose(found, pose(6.0, 0.3), atol=1e-9)
    assert drive.lag_ns(SECOND * 6 // 10) == SECOND // 5
    assert drive.at(SECOND * 66 // 100) is None
    assert drive.lag_ns(SECOND // 10) == 0


def test_extrapolation_is_over_as_long_a_time_as_it_looks_back() -> None:
    """Noise of two poses 5 ms apart would be 40 times as large 200 ms later."""
    drive = Drive(max_extrapolation_s=0.25)
    for step in range(101):
        drive.add(step * SECOND // 200, pose(step / 20 + (0.02 if step % 2 else 0.0)))
    assert abs(drive.at(SECOND * 7 // 10)[0, 3] - 7.0) < 0.05


def test_after_a_gap_or_a_single_pose_the_twist_is_followed() -> None:
    drive = Drive(max_extrapolation_s=0.25)
    drive.add(0, pose(0.0))
    drive.add(10 * SECOND, pose(5.0, math.pi / 2), [10.0, 0.0, 0.0, 0.0, 0.0, 0.5])
    found = drive.at(SECOND * 102 // 10)
    np.testing.assert_allclose(found[:3, 3], [5 - 0.09996, 1.99667, 0.0], atol=1e-4)
    assert math.isclose(yaw_of(found[:3, :3]), math.pi / 2 + 0.1, abs_tol=1e-9)
    alone = Drive(max_extrapolation_s=0.25)
    alone.add(0, pose(0.0))
    assert alone.at(SECOND // 10) is None, "nothing says how it moves"


def test_twist_moves_along_its_circle() -> None:
    whole = moved_by(np.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.4]), 1.0)
    steps = np.linalg.matrix_power(moved_by(np.array([2.0, 0.0, 0.0, 0.0, 0.0, 0.4]), 0.01), 100)
    np.testing.assert_allclose(whole, steps, atol=1e-9)
    np.testing.assert_allclose(whole[:2, 3], [2 / 0.4 * math.sin(0.4), 2 / 0.4 * (1 - math.cos(0.4))], atol=1e-9)
    np.testing.assert_array_equal(moved_by(np.array([2.0, 0, 0, 0, 0, 0]), 0.5)[:3, 3], [1.0, 0, 0])


def test_shortly_after_the_last_pose_before_a_gap_it_is_extrapolated_and_not_bridged() -> None:
    drive = Drive(max_gap_s=0.5, max_extrapolation_s=0.25)
    for tenth in (0, 1, 2, 20):
        drive.add(tenth * SECOND // 10, pose(tenth / 10))
    np.testing.assert_allclose(drive.at(SECOND * 4 // 10), pose(0.4), atol=1e-9)
    assert drive.at(SECOND) is None


def test_odometry_that_is_always_late_is_waited_for_now_and_then_only() -> None:
    drive = Drive(max_extrapolation_s=0.25)
    waits = []
    for step in range(1, 2 * RETRY):
        drive.add(step * SECOND // 10 - SECOND // 5, pose(step / 10))
        started = time.monotonic()
        assert not drive.wait_for(step * SECOND // 10, timeout_s=0.03)
        waits.append(time.monotonic() - started > 0.025)
    assert sum(waits) == VAIN_WAITS + 1
    drive.add(10 * SECOND, pose(10.0))
    assert drive.wait_for(10 * SECOND, timeout_s=0.03)
    threading.Timer(0.05, lambda: drive.add(11 * SECOND, pose(11.0))).start()
    assert drive.wait_for(11 * SECOND, timeout_s=5.0), "in time again, so waited for again"


def test_the_twist_is_that_of_the_nearest_message() -> None:
    drive = Drive(max_gap_s=0.3)
    drive.add(1 * SECOND, pose(0.0), [3.0, 0.0, 0.0, 0.0, 0.0, 0.1])
    drive.add(2 * SECOND, pose(4.0), [5.0, 0.0, 0.0, 0.0, 0.0, 0.2])
    drive.add(3 * SECOND, pose(9.0))
    drive.wait_for(3 * SECOND, 0.0)
    near = drive.twist_at(SECOND * 19 // 10)
    assert near is not None
    assert near.tolist() == [5.0, 0.0, 0.0, 0.0, 0.0, 0.2]
    assert drive.twist_at(SECOND * 3 // 2) is None  # too far from both
    assert drive.twist_at(3 * SECOND) is None  # its message says none
    assert Drive().twist_at(0) is None

"""Poses at image stamps, out of odometry."""

import math
import threading
import time
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_yaw, transform_from, yaw_of
from bevdistill_ros.node.rig.odometry import OdometryBuffer, StampedPose

SECOND = 1_000_000_000


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform_from(quaternion_from_yaw(yaw), np.array([x, 0.0, 0.0]))


class Drive(OdometryBuffer):
    """A buffer, and the topic that it takes poses from."""

    def __init__(self, **limits: Any) -> None:
        self._waiting: list[StampedPose] = []
        super().__init__(self._take, **limits)

    def add(self, stamp_ns: int, odom_from_ego: np.ndarray) -> None:
        self._waiting.append(StampedPose(stamp_ns=stamp_ns, odom_from_ego=odom_from_ego))

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

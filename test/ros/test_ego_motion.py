"""Poses at image stamps, and cameras carried to the reference stamp."""

import math
import threading
import time

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_yaw, transform_from, yaw_of
from bevdistill_ros.node.rig.ego_motion import NoEgoMotion, OdometryBuffer, compensate

SECOND = 1_000_000_000


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform_from(quaternion_from_yaw(yaw), np.array([x, 0.0, 0.0]))


def test_exact_stamp_gives_the_stored_numbers() -> None:
    buffer = OdometryBuffer()
    stored = pose(1 / 3, 0.1)
    for stamp, odom_from_ego in ((0, pose(0.0)), (7, stored), (9, pose(2.0))):
        buffer.add(stamp, odom_from_ego)
    found = buffer.odom_from_ego(7)
    assert found is not None
    assert np.array_equal(found, stored)
    found[0, 3] = 99.0
    assert buffer.odom_from_ego(7)[0, 3] == 1 / 3


def test_between_stamps_is_interpolated_and_beyond_is_unknown() -> None:
    buffer = OdometryBuffer(max_gap_s=1.0)
    buffer.add(10 * SECOND, pose(0.0, 0.0))
    buffer.add(11 * SECOND, pose(4.0, 0.4))
    found = buffer.odom_from_ego(round(10.25 * SECOND))
    assert found is not None
    np.testing.assert_allclose(found[:3, 3], [1.0, 0.0, 0.0], atol=1e-12)
    assert math.isclose(yaw_of(found[:3, :3]), 0.1, abs_tol=1e-12)
    assert buffer.odom_from_ego(10 * SECOND - 1) is None
    assert buffer.odom_from_ego(11 * SECOND + 1) is None


def test_late_odometry_is_put_in_order() -> None:
    buffer = OdometryBuffer()
    for stamp, x in ((0, 0.0), (SECOND // 2, 5.0), (SECOND // 4, 1.0)):
        buffer.add(stamp, pose(x))
    assert buffer.odom_from_ego(SECOND // 8)[0, 3] == 0.5


def test_a_wide_gap_is_not_bridged() -> None:
    buffer = OdometryBuffer(max_gap_s=0.5)
    buffer.add(0, pose(0.0))
    buffer.add(SECOND, pose(1.0))
    assert buffer.odom_from_ego(SECOND // 2) is None


def test_old_poses_go() -> None:
    buffer = OdometryBuffer(keep_s=2.0)
    for second in range(10):
        buffer.add(second * SECOND, pose(float(second)))
    assert buffer.odom_from_ego(6 * SECOND) is None
    assert buffer.odom_from_ego(7 * SECOND)[0, 3] == 7.0


def test_clock_that_goes_back_forgets_the_future() -> None:
    buffer = OdometryBuffer()
    buffer.add(100 * SECOND, pose(1.0))
    buffer.add(5 * SECOND, pose(2.0))
    assert buffer.odom_from_ego(100 * SECOND) is None
    assert buffer.odom_from_ego(5 * SECOND)[0, 3] == 2.0


def test_odometry_that_went_back_before_the_images_is_kept() -> None:
    buffer = OdometryBuffer()
    buffer.add(5 * SECOND, pose(2.0))
    buffer.forget_after(5 * SECOND - 1)
    assert buffer.odom_from_ego(5 * SECOND) is not None
    buffer.forget_after(3 * SECOND)
    assert buffer.odom_from_ego(5 * SECOND) is None


def test_waits_for_odometry_that_is_on_its_way() -> None:
    buffer = OdometryBuffer()
    threading.Timer(0.05, lambda: buffer.add(10, pose(0.0))).start()
    assert buffer.wait_for(10, timeout_s=5.0)


def test_waits_in_vain_but_once() -> None:
    buffer = OdometryBuffer()
    assert not buffer.wait_for(10, timeout_s=0.05)
    started = time.monotonic()
    assert not buffer.wait_for(10, timeout_s=5.0)
    assert time.monotonic() - started < 1.0
    buffer.add(5, pose(0.0))
    threading.Timer(0.05, lambda: buffer.add(10, pose(0.0))).start()
    assert buffer.wait_for(10, timeout_s=5.0)


def test_compensation_is_the_motion_between_the_stamps() -> None:
    mounting = transform_from(np.array([0.5, -0.5, 0.5, -0.5]), np.array([1.5, 0.0, 1.6]))
    mountings = np.stack([mounting, mounting, mounting])
    # The vehicle drives 1 m ahead between the second camera's stamp and the reference stamp, and turns left by 90
    # degrees about its new place until the third camera's stamp.
    reference = pose(11.0)
    moved, known = compensate(mountings, reference, [reference, pose(10.0), pose(11.0, math.pi / 2)])
    assert known
    np.testing.assert_allclose(moved[0], mounting, atol=1e-12)
    np.testing.assert_allclose(moved[1][:3, 3], [0.5, 0.0, 1.6], atol=1e-12)
    np.testing.assert_allclose(moved[2][:3, 3], [0.0, 1.5, 1.6], atol=1e-12)
    np.testing.assert_allclose(moved[2][:3, 2], [0.0, 1.0, 0.0], atol=1e-12)  # it looks to the left
    np.testing.assert_array_equal(mountings[1], mounting)


def test_compensation_without_a_pose_keeps_the_mounting_and_says_so() -> None:
    mountings = np.stack([pose(1.0), pose(2.0)])
    moved, known = compensate(mountings, None, [None, None])
    assert not known
    np.testing.assert_array_equal(moved, mountings)
    moved, known = compensate(mountings, pose(5.0), [pose(5.0), None])
    assert not known
    np.testing.assert_array_equal(moved[1], mountings[1])


def test_no_ego_motion_knows_nothing() -> None:
    motion = NoEgoMotion()
    assert motion.odom_from_ego(0) is None
    assert not motion.wait_for(0, 10.0)

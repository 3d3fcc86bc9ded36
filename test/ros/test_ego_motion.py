"""Cameras carried to the reference stamp."""

import math

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_yaw, transform_from
from bevdistill_ros.node.rig.ego_motion import NoEgoMotion, compensate


def pose(x: float, yaw: float = 0.0) -> np.ndarray:
    return transform_from(quaternion_from_yaw(yaw), np.array([x, 0.0, 0.0]))


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

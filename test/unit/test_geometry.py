"""Rigid transforms, quaternions and the pinhole, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from bevdistill_ros.core.geometry import (
    interpolate_poses,
    invert_rigid,
    matrix_from_quaternion,
    project_points,
    quaternion_from_matrix,
    quaternion_from_yaw,
    transform_from,
    transform_points,
    yaw_of,
)

FRONT_CAMERA = transform_from(np.array([0.5, -0.5, 0.5, -0.5]), np.array([1.7, 0.0, 1.5]))  # looks along ego x


def random_rotation(seed: int) -> np.ndarray:
    return matrix_from_quaternion(np.random.default_rng(seed).normal(size=4))


def test_yaw_is_counter_clockwise_from_x() -> None:
    rotation = matrix_from_quaternion(quaternion_from_yaw(math.pi / 2))
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    assert yaw_of(rotation) == pytest.approx(math.pi / 2)


@pytest.mark.parametrize("seed", range(20))
def test_quaternion_round_trip(seed: int) -> None:
    rotation = random_rotation(seed)
    np.testing.assert_allclose(matrix_from_quaternion(quaternion_from_matrix(rotation)), rotation, atol=1e-12)


@pytest.mark.parametrize("axis", np.eye(3))
def test_half_turns_survive_the_round_trip(axis: np.ndarray) -> None:
    rotation = matrix_from_quaternion(np.array([0.0, *axis]))
    np.testing.assert_allclose(matrix_from_quaternion(quaternion_from_matrix(rotation)), rotation, atol=1e-12)


@pytest.mark.parametrize("bad", [[0, 0, 0, 0], [math.nan, 0, 0, 1], [1, 0, 0]])
def test_no_rotation_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="not a rotation"):
        matrix_from_quaternion(np.array(bad))


def test_invert_rigid_undoes_a_transform() -> None:
    transform = torch.from_numpy(transform_from(np.array([0.9, 0.1, -0.3, 0.2]), np.array([3.0, -2.0, 1.0])))
    torch.testing.assert_close(invert_rigid(transform) @ transform, torch.eye(4, dtype=torch.float64))


def test_transform_points_turns_then_shifts() -> None:
    target_from_source = torch.from_numpy(transform_from(quaternion_from_yaw(math.pi / 2), np.array([10.0, 0.0, 0.0])))
    moved = transform_points(target_from_source, torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64))
    torch.testing.assert_close(moved, torch.tensor([[8.0, 1.0, 3.0]], dtype=torch.float64))


def test_projection_of_a_point_ahead_and_to_the_left() -> None:
    intrinsics = torch.eye(4, dtype=torch.float64)
    intrinsics[:3, :3] = torch.tensor([[100.0, 0, 50], [0, 200, 40], [0, 0, 1]])
    image_from_ego = intrinsics @ invert_rigid(torch.from_numpy(FRONT_CAMERA))
    # 10 m ahead of the camera, 2 m left and 1 m below it: u = 50 - 100 * 2 / 10, v = 40 + 200 * 1 / 10.
    pixels, depth = project_points(image_from_ego, torch.tensor([[11.7, 2.0, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(pixels, torch.tensor([[30.0, 60.0]], dtype=torch.float64))
    torch.testing.assert_close(depth, torch.tensor([10.0], dtype=torch.float64))


def test_points_behind_the_camera_have_negative_depth() -> None:
    image_from_ego = invert_rigid(torch.from_numpy(FRONT_CAMERA))
    _, depth = project_points(image_from_ego, torch.tensor([[-5.0, 0.0, 1.5]], dtype=torch.float64))
    assert depth.item() == pytest.approx(-6.7)


def test_interpolated_pose_is_half_way_in_place_and_angle() -> None:
    start = transform_from(quaternion_from_yaw(math.radians(170)), np.array([0.0, 0.0, 0.0]))
    end = transform_from(quaternion_from_yaw(math.radians(-170)), np.array([2.0, 4.0, 0.0]))
    middle = interpolate_poses(start, end, 0.5)
    np.testing.assert_allclose(middle[:3, 3], [1.0, 2.0, 0.0])
    assert abs(yaw_of(middle)) == pytest.approx(math.pi)


@pytest.mark.parametrize(("fraction", "degrees"), [(0.0, 0.0), (1.0, 10.0), (1.5, 15.0), (-0.5, -5.0)])
def test_poses_extrapolate_along_the_motion(fraction: float, degrees: float) -> None:
    start, end = np.eye(4), transform_from(quaternion_from_yaw(math.radians(10)), np.array([1.0, 0.0, 0.0]))
    pose = interpolate_poses(start, end, fraction)
    assert math.degrees(yaw_of(pose)) == pytest.approx(degrees, abs=1e-9)
    assert pose[0, 3] == pytest.approx(fraction)

"""Rigid transforms, quaternions and the pinhole camera.

Transforms are 4x4 matrices named `target_from_source`. Quaternions are w-x-y-z. Frames follow REP-103: x forward, y
left, z up; camera frames are optical: x right, y down, z forward.
"""

import math

import numpy as np
import torch
from torch import Tensor

LEAST_DEPTH = 1e-5  # [m] that pixels are divided by


def matrix_from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) float64 of a w-x-y-z quaternion (4,); it need not be of unit length.

    Raises:
        ValueError: The quaternion is zero or not finite.
    """
    q = np.asarray(quaternion, dtype=np.float64)
    norm = np.linalg.norm(q)
    if q.shape != (4,) or not np.isfinite(norm) or norm < 1e-9:
        raise ValueError(f"not a rotation: quaternion (w, x, y, z) is {q.tolist()}")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_matrix(rotation: np.ndarray) -> np.ndarray:
    """W-x-y-z quaternion (4,) float64 with w >= 0 of a rotation matrix (3, 3)."""
    m = np.asarray(rotation, dtype=np.float64)
    symmetric = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    _, vectors = np.linalg.eigh(symmetric, UPLO="U")
    quaternion = vectors[:, -1]
    return quaternion if quaternion[0] >= 0 else -quaternion


def quaternion_from_yaw(yaw: float) -> np.ndarray:
    """W-x-y-z quaternion (4,) of a turn by `yaw` [rad] about z, counter-clockwise."""
    return np.array([math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)])


def yaw_of(rotation: np.ndarray) -> float:
    """Heading [rad] of a rotation matrix (3, 3): the angle of its turned x axis in the x-y plane."""
    return math.atan2(rotation[1, 0], rotation[0, 0])


def transform_from(quaternion: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Rigid transform (4, 4) float64 of a w-x-y-z quaternion (4,) and a translation (3,) [m]."""
    matrix = np.eye(4)
    matrix[:3, :3] = matrix_from_quaternion(quaternion)
    matrix[:3, 3] = np.asarray(translation, dtype=np.float64)
    return matrix


def invert_rigid(transform: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4), exact for an orthonormal rotation, in the input's dtype."""
    rotation = transform[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(transform)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ transform[..., :3, 3:]).squeeze(-1)
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_points(target_from_source: Tensor, points: Tensor) -> Tensor:
    """Transform points (..., N, 3) [m] into the target frame of transforms (..., 4, 4)."""
    return points @ target_from_source[..., :3, :3].transpose(-1, -2) + target_from_source[..., None, :3, 3]


def interpolate_poses(start: np.ndarray, end: np.ndarray, fraction: float) -> np.ndarray:
    """Pose (4, 4) between two poses: linear in translation, spherical in rotation; fraction 0 is `start`.

    A fraction outside [0, 1] extrapolates along the same motion.
    """
    relative = quaternion_from_matrix(start[:3, :3].T @ end[:3, :3])
    half_angle = math.atan2(float(np.linalg.norm(relative[1:])), relative[0])
    pose = np.eye(4)
    pose[:3, :3] = start[:3, :3]
    if half_angle > 1e-12:
        axis = relative[1:] / math.sin(half_angle)
        turned = half_angle * fraction
        step = np.array([math.cos(turned), *(math.sin(turned) * axis)])
        pose[:3, :3] = start[:3, :3] @ matrix_from_quaternion(step)
    pose[:3, 3] = (1 - fraction) * start[:3, 3] + fraction * end[:3, 3]
    return pose


def project_points(image_from_ego: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Project points into pinhole images.

    Args:
        image_from_ego: (..., 4, 4), intrinsics times camera_from_ego, see `CameraRig.image_from_ego`.
        points: (..., M, 3) in the ego frame [m].

    Returns:
        Pixels (..., M, 2), u right and v down, where pixel centres lie at whole numbers; and depth (..., M) [m].
        Pixels of points with depth <= 0 are meaningless.
    """
    # Coordinate by coordinate, so that each lies in memory as one piece.
    homogeneous = image_from_ego[..., :3, :3] @ points.transpose(-1, -2) + image_from_ego[..., :3, 3:]
    depth = homogeneous[..., 2, :]
    pixels = homogeneous[..., :2, :] / depth.clamp(min=LEAST_DEPTH).unsqueeze(-2)
    return pixels.transpose(-1, -2), depth

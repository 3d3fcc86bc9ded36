"""Sensors of the synthetic vehicle: the cameras of nuScenes, in rounded numbers, or of a rig file; a 32-beam LiDAR.

Ego frame: origin on the ground below the rear axle, x forward, y left, z up. Camera frames are optical. The LiDAR frame
has x to the right and y forward.
"""

import re
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.geometry import matrix_from_quaternion, quaternion_from_yaw
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import VehicleRig

NATIVE_WIDTH = 1600  # [px]
NATIVE_HEIGHT = 900  # [px]
LIDAR_NAME = "LIDAR_TOP"
_FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # names of cameras that may be names of folders
_RIGID = 1e-3  # largest entry of R R^T - 1 that rounding in a file explains
_MAX_PIXELS = 20_000_000  # of an image
LIDAR_ELEVATIONS = np.radians(np.linspace(-30.67, 10.67, 32))  # [rad] of ring 0...31

_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # forward-left-up from optical


@dataclass(frozen=True, kw_only=True)
class _Mount:
    position: tuple[float, float, float]  # [m] in the ego frame
    yaw: float  # [deg] viewing direction, counter-clockwise from forward
    pitch: float  # [deg] downwards
    focal: float  # [px] at 1600x900
    centre: tuple[float, float]  # [px] principal point at 1600x900
    delay_us: int  # [us] from the LiDAR stamp to the shot


_MOUNTS = {
    "CAM_FRONT_LEFT": _Mount(
        position=(1.52, 0.495, 1.51), yaw=55.2, pitch=-0.1, focal=1272.6, centre=(826.6, 479.8), delay_us=-7600
    ),
    "CAM_FRONT": _Mount(
        position=(1.70, 0.016, 1.51), yaw=0.3, pitch=0.3, focal=1266.4, centre=(816.3, 491.5), delay_us=0
    ),
    "CAM_FRONT_RIGHT": _Mount(
        position=(1.55, -0.493, 1.50), yaw=-56.4, pitch=0.8, focal=1260.8, centre=(808.0, 495.3), delay_us=7900
    ),
    "CAM_BACK_LEFT": _Mount(
        position=(1.035, 0.485, 1.59), yaw=108.6, pitch=0.9, focal=1256.7, centre=(792.1, 492.8), delay_us=-14900
    ),
    "CAM_BACK": _Mount(
        position=(0.028, 0.0035, 1.58), yaw=179.9, pitch=-1.0, focal=809.2, centre=(829.2, 481.8), delay_us=19500
    ),
    "CAM_BACK_RIGHT": _Mount(
        position=(1.015, -0.48, 1.56), yaw=-110.8, pitch=0.9, focal=1259.5, centre=(807.3, 501.2), delay_us=15400
    ),
}


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole camera of the rig; pixel centres lie at whole numbers."""

    name: str
    width: int  # [px]
    height: int  # [px]
    intrinsics: np.ndarray  # (3, 3) float64 [px]
    ego_from_camera: np.ndarray  # (4, 4) float64 [m], optical
    delay_us: int  # [us] from the LiDAR stamp to the shot


def nuscenes_cameras(*, width: int, height: int) -> tuple[Camera, ...]:
    """The six cameras in rig order, scaled to `width`; what `height` lacks to 9/16 of it is cut off at the top [px]."""
    return tuple(_camera(name, _MOUNTS[name], width, height) for name in NUSCENES_CAMERAS)


def cameras_of(rig: VehicleRig, *, scale: float = 1.0) -> tuple[Camera, ...]:
    """The cameras of a vehicle that may not be built yet, all triggered with the LiDAR.

    Args:
        rig: The vehicle's cameras.
        scale: Of the image sizes.

    Raises:
        ValueError: A name can't be that of a folder, a mounting is not rigid, or an image is too large to be drawn.
    """
    matrices, poses = rig.intrinsics.double().numpy(), rig.ego_from_camera.double().numpy()
    return tuple(
        _scaled(name, matrix, pose, size, scale)
        for name, matrix, pose, size in zip(rig.names, matrices, poses, rig.image_sizes, strict=True)
    )


def _scaled(name: str, matrix: np.ndarray, pose: np.ndarray, size: tuple[int, int], scale: float) -> Camera:
    if not _FOLDER.fullmatch(name) or name == LIDAR_NAME:
        raise ValueError(
            f"camera name '{name}' can't be that of a folder; use letters, digits, _ and -, and not {LIDAR_NAME}"
        )
    rotation = pose[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _RIGID or np.linalg.det(rotation) < 0:
        raise ValueError(f"ego_from_camera of {name} is not a rigid mounting; check it with 'bevdistill doctor --rig'")
    if not (np.array_equal(pose[3], [0, 0, 0, 1]) and np.array_equal(matrix[2], [0, 0, 1])):
        raise ValueError(f"the last rows of ego_from_camera and intrinsics of {name} must be 0 0 0 1 and 0 0 1")
    height, width = (max(round(side * scale), 1) for side in size)
    if height * width > _MAX_PIXELS:
        raise ValueError(f"images of {name} are {width}x{height}, too large to be drawn; scale them with rig_scale")
    scales = np.array([width / size[1], height / size[0], 1.0])
    shift = np.array([[0.0, 0.0, 0.5 * scales[0] - 0.5], [0.0, 0.0, 0.5 * scales[1] - 0.5], [0.0, 0.0, 0.0]])
    return Camera(
        name=name,
        width=width,
        height=height,
        intrinsics=(np.diag(scales) + shift) @ matrix,
        ego_from_camera=pose,
        delay_us=0,
    )


def _camera(name: str, mount: _Mount, width: int, height: int) -> Camera:
    scale = width / NATIVE_WIDTH
    cut = NATIVE_HEIGHT * scale - height
    intrinsics = np.array(
        [
            [mount.focal * scale, 0.0, scale * (mount.centre[0] + 0.5) - 0.5],
            [0.0, mount.focal * scale, scale * (mount.centre[1] + 0.5) - 0.5 - cut],
            [0.0, 0.0, 1.0],
        ]
    )
    half = np.radians(mount.pitch) / 2
    turned = matrix_from_quaternion(quaternion_from_yaw(float(np.radians(mount.yaw))))
    tilted = matrix_from_quaternion(np.array([np.cos(half), 0.0, np.sin(half), 0.0]))
    ego_from_camera = np.eye(4)
    ego_from_camera[:3, :3] = turned @ tilted @ _OPTICAL
    ego_from_camera[:3, 3] = mount.position
    return Camera(
        name=name,
        width=width,
        height=height,
        intrinsics=intrinsics,
        ego_from_camera=ego_from_camera,
        delay_us=mount.delay_us,
    )


def ego_from_lidar() -> np.ndarray:
    """Where the LiDAR sits: (4, 4) float64 [m]."""
    transform = np.eye(4)
    transform[:3, :3] = matrix_from_quaternion(quaternion_from_yaw(-np.pi / 2))
    transform[:3, 3] = (0.94, 0.0, 1.84)
    return transform

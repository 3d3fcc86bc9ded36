"""Where each camera of a rig looks, in plain words, and what cannot be right about it."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bevdistill_ros.core.rig import Rig
from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, warn

NOT_ORTHONORMAL = 1e-3  # largest entry of R R^T - 1 that rounding in a file explains
MAX_UP_DEG = 20.0  # a camera that looks further up sees no road
MAX_ROLL_DEG = 15.0
MAX_HEIGHT_M = 6.0  # above it no road vehicle carries a camera
STEEP_DEG = 80.0  # beyond it a camera looks up or down, in no direction of the compass
SAME_PLACE_M = 0.01
SAME_DIRECTION_DEG = 0.5
CENTRE_TOLERANCE = 0.2  # of the image's width or height, from its middle to the principal point

_CORRECT_ROTATION = "the first three columns are the camera's axes right, down and ahead in the ego frame; correct them"
_RECALIBRATE = "calibrate this camera, or correct its matrix"

# Columns: the axes of a camera frame (right, down, ahead) in a body frame (ahead, left, up) that looks the same way.
BODY_FROM_OPTICAL = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraView:
    """A camera of the vehicle."""

    name: str
    matrix: np.ndarray  # (3, 3) float64 [px], of images of `size`
    size: tuple[int, int]  # height, width [px]
    ego_from_camera: np.ndarray  # (4, 4) float64 [m]

    @property
    def height(self) -> float:
        """Height above the ground [m]."""
        return float(self.ego_from_camera[2, 3])

    @property
    def yaw(self) -> float:
        """Direction of the optical axis from above [degrees]: 0 ahead, 90 to the left."""
        x, y = self.ego_from_camera[:2, 2]
        return math.degrees(math.atan2(y, x))

    @property
    def elevation(self) -> float:
        """Angle of the optical axis above the horizontal [degrees]."""
        x, y, z = self.ego_from_camera[:3, 2]
        return math.degrees(math.atan2(z, math.hypot(x, y)))

    @property
    def roll(self) -> float:
        """Turn of the image about the optical axis [degrees]: 0 upright, 90 with the image's right side down."""
        return math.degrees(math.atan2(-self.ego_from_camera[2, 0], -self.ego_from_camera[2, 1]))

    @property
    def field_of_view(self) -> float:
        """Horizontal field of view [degrees]."""
        focal, centre = self.matrix[0, 0], self.matrix[0, 2]
        edges = np.arctan(np.array([centre + 0.5, self.size[1] - 0.5 - centre]) / focal)
        return math.degrees(edges.sum())


def views_of(rig: Rig) -> list[CameraView]:
    """The cameras of a rig, one by one."""
    return [
        CameraView(name=name, matrix=matrix.numpy(), size=size, ego_from_camera=pose.numpy())
        for name, matrix, size, pose in zip(
            rig.names, rig.intrinsics.double(), rig.image_sizes, rig.ego_from_camera.double(), strict=True
        )
    ]


def describe(view: CameraView) -> str:
    """Direction, place and width of view in plain words."""
    tilt = f"{abs(view.elevation):.1f} deg {'up' if view.elevation > 0 else 'down'}"
    direction = tilt if _is_steep(view) else f"{_direction(view.yaw)}, {tilt}"
    height = f"{abs(view.height):.2f} m {'above' if view.height > 0 else 'below'} ground"
    return f"looks {direction}, {height}, {view.field_of_view:.0f} deg wide"


def check_views(views: Sequence[CameraView]) -> list[Finding]:
    """Findings about each camera, and about cameras that are in one place."""
    findings = [_check_view(view) for view in views]
    sound = [view for view in views if not _rotation_fault(view.ego_from_camera)]
    for first, second in itertools.combinations(sound, 2):
        if _same_pose(first, second):
            text = f"sits where {first.name} sits and looks where it looks"
            findings.append(warn(second.name, text, "one of the two has the mounting of the other; correct it"))
    return findings


def _check_view(view: CameraView) -> Finding:
    fault = _rotation_fault(view.ego_from_camera)
    if fault:
        return fail(view.name, fault, _CORRECT_ROTATION)
    problems = [
        *(Problem(verdict=Verdict.FAIL, message=text, remedy=_likely_mistake(view)) for text in _pose_faults(view)),
        *(Problem(verdict=Verdict.WARN, message=text, remedy=_RECALIBRATE) for text in _matrix_doubts(view)),
    ]
    return judge(view.name, describe(view), problems)


def _rotation_fault(pose: np.ndarray) -> str:
    """What is wrong with the rotation or the last row of a mounting (4, 4), empty where nothing is."""
    rotation = pose[:3, :3]
    error = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if error > NOT_ORTHONORMAL:
        return f"its rotation is not orthonormal, off by {error:.2g}"
    if np.linalg.det(rotation) < 0:
        return "its axes are left-handed, so left and right are swapped"
    if not np.allclose(pose[3], [0, 0, 0, 1]):
        row = " ".join(f"{value:.2f}" for value in pose[3])
        return f"the last row of its mounting must be 0 0 0 1, but is {row}; was it transposed?"
    return ""


def _pose_faults(view: CameraView) -> list[str]:
    """What no camera of a road vehicle does."""
    faults = []
    if view.height <= 0:
        faults.append("no camera sits there")
    if view.height > MAX_HEIGHT_M:
        faults.append("no vehicle is so high")
    if view.elevation > MAX_UP_DEG:
        faults.append("it looks up into the sky")
    elif abs(view.roll) > MAX_ROLL_DEG and not _is_steep(view):
        faults.append(f"its image is turned by {view.roll:.0f} deg")
    return faults


def _matrix_doubts(view: CameraView) -> list[str]:
    """What is unusual about a camera matrix."""
    doubts = []
    (focal_u, _, centre_u), (_, focal_v, centre_v), _ = view.matrix
    rows, cols = view.size
    if abs(focal_u / focal_v - 1) > 0.05:
        doubts.append(f"its pixels are not square (fx {focal_u:.0f}, fy {focal_v:.0f})")
    off_u, off_v = centre_u / (cols - 1) - 0.5, centre_v / (rows - 1) - 0.5
    if max(abs(off_u), abs(off_v)) > CENTRE_TOLERANCE:
        doubts.append(f"its principal point ({centre_u:.0f}, {centre_v:.0f}) is far from the middle of {cols}x{rows}")
    return doubts


def _likely_mistake(view: CameraView) -> str:
    """What would put a camera right, found by trying the usual mistakes."""
    pose = view.ego_from_camera
    optical = pose.copy()
    optical[:3, :3] = pose[:3, :3] @ BODY_FROM_OPTICAL
    mistakes = [
        (np.linalg.inv(pose), "this seems to be camera_from_ego; give its inverse, ego_from_camera"),
        (optical, "this seems to be a body frame (x ahead, z up); give the optical frame (z ahead, y down)"),
    ]
    if view.elevation > STEEP_DEG / 2:  # z up is the mark of a body frame
        mistakes.reverse()
    for corrected, remedy in mistakes:
        if not _pose_faults(replace(view, ego_from_camera=corrected)):
            return remedy
    return "correct its mounting: metres from the ego frame on the ground, x ahead, y left, z up"


def _same_pose(first: CameraView, second: CameraView) -> bool:
    distance = np.linalg.norm(first.ego_from_camera[:3, 3] - second.ego_from_camera[:3, 3])
    cosine = float(first.ego_from_camera[:3, 2] @ second.ego_from_camera[:3, 2])
    return bool(distance < SAME_PLACE_M and cosine > math.cos(math.radians(SAME_DIRECTION_DEG)))


def _is_steep(view: CameraView) -> bool:
    return abs(view.elevation) > STEEP_DEG


def _direction(yaw: float) -> str:
    side = "left" if yaw >= 0 else "right"
    if abs(yaw) <= 45:
        return f"{abs(yaw):.1f} deg {side} of forward"
    if abs(yaw) >= 135:
        return f"{180 - abs(yaw):.1f} deg {side} of backward"
    return f"{abs(yaw):.1f} deg to the {side}"

"""The vehicle's rig beside the one that the weights were trained on."""

import math
from collections.abc import Sequence

import numpy as np
import torch

from bevdistill_ros.core.rig import CameraRig

AXIS_LIMIT_DEG = 20.0  # a camera that looks further away from its place in training is likely another camera
ROLL_LIMIT_DEG = 5.0
HEIGHT_LIMIT_M = 0.3
PLACE_LIMIT_M = 1.0  # horizontally
COMMON_M = 0.15  # cameras that are moved by the same, up to this, are where they were: the base frame is elsewhere
FAR_M, ASIDE_M = 20.0, 10.0  # where the effects are given


def differences_from_training(
    cameras: Sequence[str], actual: CameraRig, training: CameraRig, *, focal_tolerance: float
) -> list[str]:
    """How a rig differs from the one that the weights were trained on, one line per difference, with its effect.

    A network that has seen one focal length reads depth wrong through another, and it has learnt how high above the
    origin of the base frame things stand.

    Args:
        cameras: Names for the lines.
        actual: Rig of the vehicle, in the order of `training`, any image size.
        training: Rig of training, any image size.
        focal_tolerance: Allowed relative difference of the focal length at equal image width.
    """
    lines = []
    for index, camera in enumerate(cameras):
        lines += _lens_differences(camera, index, actual, training, focal_tolerance)
        lines += _turn_differences(camera, actual.ego_from_camera[index], training.ego_from_camera[index])
    places, trained = (rig.ego_from_camera[:, :3, 3].double().numpy() for rig in (actual, training))
    return lines + _place_differences(cameras, places, trained)


def _lens_differences(
    camera: str, index: int, actual: CameraRig, training: CameraRig, focal_tolerance: float
) -> list[str]:
    focal = float(actual.intrinsics[index, 0, 0]) / actual.image_size[1]
    trained = float(training.intrinsics[index, 0, 0]) / training.image_size[1]
    if abs(focal / trained - 1) <= focal_tolerance:
        return []
    return [
        f"{camera} sees {_field_of_view(focal):.0f} degrees, the model was trained on "
        f"{_field_of_view(trained):.0f}: its depth will be wrong"
    ]


def _turn_differences(camera: str, actual: torch.Tensor, training: torch.Tensor) -> list[str]:
    lines = []
    axes = torch.stack([actual[:3, 2], training[:3, 2]]).double()
    angle = math.degrees(math.acos(float((axes[0] @ axes[1]).clamp(-1, 1))))
    if angle > AXIS_LIMIT_DEG:
        lines.append(f"{camera} looks {angle:.0f} degrees away from its direction in training; check the camera order")
    roll = (_roll_deg(actual) - _roll_deg(training) + 180) % 360 - 180
    if abs(roll) > ROLL_LIMIT_DEG:
        rise = ASIDE_M * math.sin(math.radians(abs(roll)))
        lines.append(
            f"{camera} is rolled by {roll:.0f} degrees against training: the road {ASIDE_M:.0f} m to the side appears "
            f"{rise:.1f} m too high or low; mount it upright, or train on images of this rig"
        )
    return lines


def _place_differences(cameras: Sequence[str], places: np.ndarray, trained: np.ndarray) -> list[str]:
    """Differences of positions (N, 3) [m]: once where all cameras are moved alike, else camera by camera."""
    moves = places - trained
    common = np.median(moves, axis=0)
    if len(cameras) > 1 and (np.abs(moves - common) <= COMMON_M).all():
        return _moved("all cameras", common, places[0], trained[0], f", {cameras[0]}")
    return [
        line
        for camera, move, place, before in zip(cameras, moves, places, trained, strict=True)
        for line in _moved(camera, move, place, before, "")
    ]


def _moved(who: str, move: np.ndarray, place: np.ndarray, trained: np.ndarray, example: str) -> list[str]:
    lines = []
    verb = "are" if who.startswith("all") else "is"
    if abs(move[2]) > HEIGHT_LIMIT_M:
        error = FAR_M * abs(move[2]) / max(abs(trained[2]), 0.5)
        lines.append(
            f"{who} {verb} {abs(move[2]):.2f} m {'higher' if move[2] > 0 else 'lower'} than in training "
            f"({place[2]:.2f} m above base_frame instead of {trained[2]:.2f}{example}): boxes will be up to "
            f"{abs(move[2]):.2f} m too {'low' if move[2] > 0 else 'high'}, at {FAR_M:.0f} m up to {error:.1f} m off "
            "in distance; base_frame must lie on the ground, not at axle, bumper or roof"
        )
    distance = float(np.linalg.norm(move[:2]))
    if distance > PLACE_LIMIT_M:
        lines.append(
            f"{who} {verb} {distance:.2f} m away from the place in training (x {place[0]:.2f}, y {place[1]:.2f} "
            f"instead of x {trained[0]:.2f}, y {trained[1]:.2f}{example}): the area that is searched moves by as much "
            f"against the cameras; base_frame must lie where it did in training, or train on this rig"
        )
    return lines


def _roll_deg(pose: torch.Tensor) -> float:
    """Turn of the image about the optical axis [degrees]: 0 upright."""
    return math.degrees(math.atan2(-float(pose[2, 0]), -float(pose[2, 1])))


def _field_of_view(focal: float) -> float:
    """Horizontal field of view [degrees] of a focal length in image widths."""
    return math.degrees(2 * math.atan(0.5 / focal))

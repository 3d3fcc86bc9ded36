"""The vehicle's rig beside the one that the weights were trained on."""

import math
from collections.abc import Sequence

import torch

from bevdistill_ros.core.rig import CameraRig

AXIS_LIMIT_DEG = 20.0  # a camera that looks further away from its place in training is likely another camera


def differences_from_training(
    cameras: Sequence[str], actual: CameraRig, training: CameraRig, *, focal_tolerance: float
) -> list[str]:
    """How a rig differs from the one that the weights were trained on, one line a difference.

    A network that has seen one focal length reads depth wrong through another.

    Args:
        cameras: Names for the lines.
        actual: Rig of the vehicle, in the order of `training`, any image size.
        training: Rig of training, any image size.
        focal_tolerance: Allowed relative difference of the focal length at equal image width.
    """
    lines = []
    for index, camera in enumerate(cameras):
        focal = float(actual.intrinsics[index, 0, 0]) / actual.image_size[1]
        trained = float(training.intrinsics[index, 0, 0]) / training.image_size[1]
        if abs(focal / trained - 1) > focal_tolerance:
            lines.append(
                f"{camera} sees {_field_of_view(focal):.0f} degrees, the model was trained on "
                f"{_field_of_view(trained):.0f}: its depth will be wrong"
            )
        axes = torch.stack([actual.ego_from_camera[index, :3, 2], training.ego_from_camera[index, :3, 2]]).double()
        angle = math.degrees(math.acos(float((axes[0] @ axes[1]).clamp(-1, 1))))
        if angle > AXIS_LIMIT_DEG:
            lines.append(
                f"{camera} looks {angle:.0f} degrees away from its direction in training; check the camera order"
            )
    return lines


def _field_of_view(focal: float) -> float:
    """Horizontal field of view [degrees] of a focal length in image widths."""
    return math.degrees(2 * math.atan(0.5 / focal))

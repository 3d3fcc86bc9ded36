"""Whether the cameras of the vehicle are like those that the model was trained with."""

from collections.abc import Sequence

import numpy as np
import torch

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks.rig import CameraView
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.training_rig import differences_from_training

_REMEDY = "train or fine-tune on your own rig; until then distances will be wrong"


def check_against_training(
    views: Sequence[CameraView], training: CameraRig, *, focal_tolerance: float
) -> list[Finding]:
    """Findings of the node's own comparison.

    Args:
        views: The vehicle's cameras, by the model's names, or as many in the model's order.
        training: The rig of training.
        focal_tolerance: Allowed relative difference of the focal length at equal image width.
    """
    ordered = _in_order(views, training.names)
    if ordered is None:
        text = f"the model takes {', '.join(training.names)}, known are {', '.join(view.name for view in views)}"
        return [fail("training rig", text, "give the cameras the model's names, or as many in its order")]
    names = [view.name for view in ordered]
    lines = differences_from_training(names, _rig_of(ordered), training, focal_tolerance=focal_tolerance)
    if lines:
        return [warn("training rig", line, _REMEDY) for line in lines]
    return [ok("training rig", "fields of view, directions, heights and places are those of training")]


def _in_order(views: Sequence[CameraView], names: Sequence[str]) -> list[CameraView] | None:
    """The views of these names; or all of them, where none has such a name and their number is the same."""
    by_name = {view.name: view for view in views}
    if all(name in by_name for name in names):
        return [by_name[name] for name in names]
    return list(views) if not set(by_name) & set(names) and len(views) == len(names) else None


def _rig_of(views: Sequence[CameraView]) -> CameraRig:
    """The cameras as a rig with images of one size."""
    size = views[0].size
    matrices = [Calibration(matrix=view.matrix, size=view.size).matrix_at(size) for view in views]
    return CameraRig(
        names=tuple(view.name for view in views),
        intrinsics=torch.from_numpy(np.stack(matrices)),
        ego_from_camera=torch.from_numpy(np.stack([view.ego_from_camera for view in views])),
        image_size=size,
    )

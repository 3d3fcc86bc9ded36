"""Whether the cameras of the vehicle are like those that the model was trained with."""

from collections.abc import Sequence

import numpy as np
import torch

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks.rig import CameraView
from bevdistill_ros.doctor.finding import Finding, fail, ok, warn
from bevdistill_ros.inference.coverage import CameraCoverage, coverage_of
from bevdistill_ros.inference.frame import ImageTarget
from bevdistill_ros.node.rig.training_rig import differences_from_training

_REMEDY = "train or fine-tune on your own rig; until then distances will be wrong"


def check_against_training(
    views: Sequence[CameraView], training: CameraRig, target: ImageTarget, *, focal_tolerance: float
) -> list[Finding]:
    """What the network sees of each camera, and findings of the node's own comparison.

    Args:
        views: The vehicle's cameras, by the model's names, or as many in the model's order.
        training: The rig of training.
        target: What the network takes of an image.
        focal_tolerance: Allowed relative difference of the focal length at equal image width.
    """
    ordered = _in_order(views, training.names)
    if ordered is None:
        text = f"the model takes {', '.join(training.names)}, known are {', '.join(view.name for view in views)}"
        return [fail("training rig", text, "give the cameras the model's names, or as many in its order")]
    names = [view.name for view in ordered]
    seen = _coverage_of(ordered, target)
    rig = _rig_of(ordered, seen)
    lines = differences_from_training(names, rig, training, focal_tolerance=focal_tolerance)
    found = [_judged(camera) for camera in seen if camera.problem]
    found = found or [ok("network's view", f"shows the road of each camera ({seen[0].name}: {seen[0]})")]
    if lines:
        return found + [warn("training rig", line, _REMEDY) for line in lines]
    return [*found, ok("training rig", "fields of view, directions, heights and places are those of training")]


def _in_order(views: Sequence[CameraView], names: Sequence[str]) -> list[CameraView] | None:
    """The views of these names; or all of them, where none has such a name and their number is the same."""
    by_name = {view.name: view for view in views}
    if all(name in by_name for name in names):
        return [by_name[name] for name in names]
    return list(views) if not set(by_name) & set(names) and len(views) == len(names) else None


def _coverage_of(views: Sequence[CameraView], target: ImageTarget) -> list[CameraCoverage]:
    return coverage_of(
        [view.name for view in views],
        np.stack([view.matrix for view in views]),
        np.stack([view.ego_from_camera for view in views]),
        [view.size for view in views],
        target,
    )


def _judged(camera: CameraCoverage) -> Finding:
    judge = fail if camera.is_too_little else warn
    text, _, remedy = camera.problem.rpartition("; ")
    return judge("network's view", text, remedy)


def _rig_of(views: Sequence[CameraView], seen: Sequence[CameraCoverage]) -> CameraRig:
    """The cameras as the network sees them."""
    matrices = [camera.fit.matrix(view.size) @ view.matrix for view, camera in zip(views, seen, strict=True)]
    return CameraRig(
        names=tuple(view.name for view in views),
        intrinsics=torch.from_numpy(np.stack(matrices)),
        ego_from_camera=torch.from_numpy(np.stack([view.ego_from_camera for view in views])),
        image_size=seen[0].target.size,
    )

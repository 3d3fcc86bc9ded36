"""Ground truth that can be learned from; it is checked on the CPU, in the loader, where nothing waits for a GPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.core.nuscenes import NUM_CLASSES

VELOCITY_START = 7  # of a box; what comes before must be known


def check_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
    """Refuse ground truth that cannot be learned from.

    Raises:
        ValueError: Boxes and labels differ in number; a box has no size or is not finite (its velocity may be NaN);
            a label is not a class.
    """
    if len(boxes) != len(labels) or any(len(b) != len(t) for b, t in zip(boxes, labels, strict=False)):
        raise ValueError(
            f"boxes and labels must pair up, but number {[len(b) for b in boxes]} and {[len(t) for t in labels]}"
        )
    if not boxes:
        raise ValueError("the batch is empty; it needs at least one item, which may be without boxes")
    all_boxes, all_labels = torch.cat(list(boxes)), torch.cat(list(labels))
    sizes = all_boxes[:, 3:6]
    sound = all_boxes[:, :VELOCITY_START].isfinite().all() & (sizes > 0).all()
    known = ((all_labels >= 0) & (all_labels < NUM_CLASSES)).all()
    if not bool(sound & known):
        raise ValueError(
            "ground truth must have finite boxes of positive size (only the velocity may be NaN) and labels in "
            f"0...{NUM_CLASSES - 1}; check the annotations of this batch"
        )

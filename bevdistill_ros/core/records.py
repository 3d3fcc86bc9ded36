"""The records that pass between the parts: a synchronised set of images, and the detections in it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import BOX_SIZE
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.core.rig import CameraRig

MOTION_SIZE = 9  # acceleration with gravity [m/s2], turn rates [rad/s], velocity [m/s], each x y z in the ego frame


@dataclass(frozen=True, kw_only=True)
class CameraFrame:
    """A synchronised set of images, one per camera, with its rig and the ego pose.

    `rig` holds at the reference stamp: motion of the vehicle between a camera's own stamp and the reference stamp
    is already part of `ego_from_camera`.

    Raises:
        ValueError: A shape or dtype differs from the field's comment.
    """

    stamp_ns: int  # reference stamp of the set [ns]
    images: Tensor  # (N, 3, H, W) uint8 RGB, in rig order
    rig: CameraRig
    global_from_ego: Tensor  # (4, 4) float64 [m], ego pose at stamp_ns
    valid: Tensor  # (N,) bool, False for a camera that is missing in this set
    # (9,), each x y z in the ego frame: acceleration [m/s2], turn rates [rad/s], velocity [m/s]; zeros where unknown.
    motion: Tensor | None = None  # None where all are unknown

    def __post_init__(self) -> None:
        count = len(self.rig.names)
        expected = (count, 3, *self.rig.image_size)
        if tuple(self.images.shape) != expected or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 {expected}, but are {self.images.dtype} {tuple(self.images.shape)}")
        if tuple(self.valid.shape) != (count,) or self.valid.dtype != torch.bool:
            raise ValueError(f"valid must be bool ({count},), but is {self.valid.dtype} {tuple(self.valid.shape)}")
        if tuple(self.global_from_ego.shape) != (4, 4):
            raise ValueError(f"global_from_ego must be (4, 4), but is {tuple(self.global_from_ego.shape)}")
        if self.motion is not None and tuple(self.motion.shape) != (MOTION_SIZE,):
            raise ValueError(f"motion must be ({MOTION_SIZE},), but is {tuple(self.motion.shape)}")


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detected boxes in the ego frame at a stamp.

    Raises:
        ValueError: A shape or dtype differs from the field's comment, or a label is not a class.
    """

    stamp_ns: int
    boxes: Tensor  # (M, 9) float32, layout of core.boxes
    scores: Tensor  # (M,) float32 in [0, 1]; a score, not a probability
    labels: Tensor  # (M,) int64 into core.nuscenes.CLASS_NAMES

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if tuple(self.boxes.shape) != (count, BOX_SIZE) or self.boxes.dtype != torch.float32:
            found = f"{self.boxes.dtype} {tuple(self.boxes.shape)}"
            raise ValueError(f"boxes must be float32 (M, {BOX_SIZE}), but are {found}")
        if tuple(self.scores.shape) != (count,) or self.scores.dtype != torch.float32:
            found = f"{self.scores.dtype} {tuple(self.scores.shape)}"
            raise ValueError(f"scores must be float32 ({count},), but are {found}")
        if tuple(self.labels.shape) != (count,) or self.labels.dtype != torch.int64:
            raise ValueError(f"labels must be int64 ({count},), but are {self.labels.dtype} {tuple(self.labels.shape)}")
        if count and not (int(self.labels.min()) >= 0 and int(self.labels.max()) < NUM_CLASSES):
            span = f"{self.labels.min()}...{self.labels.max()}"
            raise ValueError(f"labels must be in 0...{NUM_CLASSES - 1}, but span {span}")

    @classmethod
    def empty(cls, stamp_ns: int) -> "Detections":
        """No detections at a stamp [ns]."""
        labels = torch.zeros(0, dtype=torch.int64)
        return cls(stamp_ns=stamp_ns, boxes=torch.zeros(0, BOX_SIZE), scores=torch.zeros(0), labels=labels)

    def cpu(self) -> "Detections":
        """The same in the memory of the CPU."""
        return replace(self, boxes=self.boxes.cpu(), scores=self.scores.cpu(), labels=self.labels.cpu())

    def above(self, threshold: float, at_most: int | None = None) -> "Detections":
        """Detections with a score of at least `threshold`, by descending score, at most `at_most` of them."""
        order = self.scores.argsort(descending=True, stable=True)
        order = order[self.scores[order] >= threshold][:at_most]
        return replace(self, boxes=self.boxes[order], scores=self.scores[order], labels=self.labels[order])

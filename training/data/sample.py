"""One batch of training data, and how samples become one.

A frame is the ego vehicle at the LiDAR stamp of a nuScenes sample; all geometry of a batch item is in that ego frame.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bevdistill_ros.core.records import MOTION_SIZE
from bevdistill_ros.model.records import CameraInput
from training.data.targets import check_targets
from training.data.visibility import targets_in_view


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One frame: cameras, LiDAR, ground truth."""

    token: str  # nuScenes sample token
    stamp_ns: int
    cameras: CameraInput  # with batch size 1
    history: tuple[CameraInput, ...]  # earlier frames of the clip, oldest first, each with batch size 1
    points: Tensor  # (P, 5) float32 [x y z intensity lag], m, 0...1, s; ego frame
    ego_from_lidar: Tensor  # (4, 4) float64 [m], where the LiDAR is mounted, whatever is done to the points
    boxes: Tensor  # (M, 9) float32, core.boxes; NaN where a velocity is unknown
    labels: Tensor  # (M,) int64
    num_lidar_points: Tensor  # (M,) int64, of the annotation
    box_weights: Tensor  # (M,) float32 in [0, 1], how much each box counts in the losses
    annotated: bool  # False: nobody labelled this frame, so that where it has no box there may be an object


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frames side by side; what varies in number stays a tuple with one entry a frame."""

    tokens: tuple[str, ...]
    stamps_ns: tuple[int, ...]
    cameras: CameraInput
    history: tuple[CameraInput, ...]  # clip length minus one entries, oldest first
    history_present: Tensor  # (len(history), B) bool, False where a clip begins before its scene does
    points: tuple[Tensor, ...]  # B x (P_b, 5)
    ego_from_lidar: Tensor  # (B, 4, 4) float64 [m]
    boxes: tuple[Tensor, ...]  # B x (M_b, 9)
    labels: tuple[Tensor, ...]  # B x (M_b,)
    num_lidar_points: tuple[Tensor, ...]  # B x (M_b,)
    box_weights: tuple[Tensor, ...]  # B x (M_b,) in [0, 1]
    annotated: Tensor  # (B,) bool
    num_in_view: tuple[int, ...] | None = None  # boxes of each item that its cameras show: its first ones; None is all

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The same in pinned memory, from which a GPU copies while the CPU goes on; data loaders call it."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(
            self,
            cameras=self.cameras.mapped(change),
            history=tuple(frame.mapped(change) for frame in self.history),
            history_present=change(self.history_present),
            points=tuple(map(change, self.points)),
            ego_from_lidar=change(self.ego_from_lidar),
            boxes=tuple(map(change, self.boxes)),
            labels=tuple(map(change, self.labels)),
            num_lidar_points=tuple(map(change, self.num_lidar_points)),
            box_weights=tuple(map(change, self.box_weights)),
            annotated=change(self.annotated),
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples side by side.

    A sample whose clip begins before its scene has fewer history frames than the others; its own current frame stands
    in for the missing ones, and `history_present` marks them. Boxes that the cameras of an item show come first.

    Raises:
        ValueError: A box or a label cannot be learned from.
    """
    check_targets([sample.boxes for sample in samples], [sample.labels for sample in samples])
    length = max(len(sample.history) for sample in samples)
    padded = [(sample.cameras,) * (length - len(sample.history)) + sample.history for sample in samples]
    present = [[step >= length - len(sample.history) for sample in samples] for step in range(length)]
    batch = Batch(
        tokens=tuple(sample.token for sample in samples),
        stamps_ns=tuple(sample.stamp_ns for sample in samples),
        cameras=_stack([sample.cameras for sample in samples]),
        history=tuple(_stack([clip[step] for clip in padded]) for step in range(length)),
        history_present=torch.tensor(present, dtype=torch.bool).reshape(length, len(samples)),
        points=tuple(sample.points for sample in samples),
        ego_from_lidar=torch.stack([sample.ego_from_lidar for sample in samples]),
        boxes=tuple(sample.boxes for sample in samples),
        labels=tuple(sample.labels for sample in samples),
        num_lidar_points=tuple(sample.num_lidar_points for sample in samples),
        box_weights=tuple(sample.box_weights for sample in samples),
        annotated=torch.tensor([sample.annotated for sample in samples]),
    )
    return in_view_first(batch)


def in_view_first(batch: Batch) -> Batch:
    """The batch with the boxes that the cameras of an item show before the others, and how many they are.

    So a loss takes either by a slice; a mask on a GPU would have to be read first.
    """
    seen = targets_in_view(batch.boxes, batch.cameras, batch.history)
    orders = [item.int().argsort(descending=True, stable=True) for item in seen]

    def ordered(values: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value[order] for value, order in zip(values, orders, strict=True))

    return replace(
        batch,
        boxes=ordered(batch.boxes),
        labels=ordered(batch.labels),
        num_lidar_points=ordered(batch.num_lidar_points),
        box_weights=ordered(batch.box_weights),
        num_in_view=tuple(int(item.sum()) for item in seen),
    )


def _stack(frames: Sequence[CameraInput]) -> CameraInput:
    return CameraInput(
        images=torch.cat([frame.images for frame in frames]),
        image_from_ego=torch.cat([frame.image_from_ego for frame in frames]),
        valid=torch.cat([frame.valid for frame in frames]),
        global_from_ego=torch.cat([frame.global_from_ego for frame in frames]),
        motion=_motion_of(frames),
    )


def _motion_of(frames: Sequence[CameraInput]) -> Tensor | None:
    """Ego motion of frames side by side, zeros where it is unknown; None where it is unknown for all."""
    if all(frame.motion is None for frame in frames):
        return None
    unknown = [torch.zeros(len(frame.images), MOTION_SIZE) for frame in frames]
    return torch.cat(
        [zeros if frame.motion is None else frame.motion for frame, zeros in zip(frames, unknown, strict=True)]
    )

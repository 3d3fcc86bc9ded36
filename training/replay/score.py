"""Score recorded detections with the evaluator of the offline runs.

A set's stamp is the stamp of its reference image, so a key frame's detections are those whose stamp is that of the key
frame's reference image. They go to the global frame by the ego pose at their own stamp: nuScenes boxes hold at the
stamp of the LiDAR, up to some 40 ms later, but whatever stands still lands where it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nuscenes import NuScenes
from torch import Tensor

from bevdistill_ros.core.boxes import BOX_SIZE
from bevdistill_ros.core.geometry import yaw_of
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.read_bag import BagError, BagSample, read_bag
from training.bag.write_bag import BASE_FRAME
from training.evaluate.metrics import Metrics, evaluate_detections


@dataclass(frozen=True, kw_only=True)
class SetStatus:
    """How one set passed through the node."""

    stamp_ns: int
    spread_ms: float
    latency_ms: float  # oldest image stamp to publish
    stage_ms: Mapping[str, float]  # empty for a set that was dropped
    sets_processed: int
    sets_dropped: int
    drop_reason: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the node answered to one bag."""

    detections: Mapping[int, Detections]  # by stamp [ns], boxes in base_link
    statuses: tuple[SetStatus, ...]  # as they came


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Detections of samples, ready for evaluation."""

    detections: Mapping[str, Detections]  # by sample token; empty where the node answered nothing
    global_from_ego: Mapping[str, Tensor]  # by sample token, (4, 4) float64 [m], at the stamp of the reference image
    unanswered: tuple[str, ...]  # tokens of the samples without an answer


def read_recording(path: Path, *, base_frame: str = BASE_FRAME) -> Recording:
    """Read a recording that `write_recording` wrote, or that ROS wrote of the same topics.

    Args:
        path: The bag.
        base_frame: Frame of the boxes.

    Raises:
        BagError: It is damaged, or holds no detections.
    """
    bag = read_bag(path)
    arrays = (content for _, content in bag.decoded(DETECTIONS_TOPIC, messages.DETECTIONS_TYPE))
    has_status = STATUS_TOPIC in bag.topics
    statuses = [status for _, status in bag.decoded(STATUS_TOPIC, messages.STATUS_TYPE, _status)] if has_status else []
    found = {record.stamp_ns: record for record in (detections_of(array, base_frame=base_frame) for array in arrays)}
    # Each status counts one set more, used or dropped; stamps would put sets dropped in a rush before the one at work.
    statuses.sort(key=lambda status: status.sets_processed + status.sets_dropped)
    return Recording(detections=found, statuses=tuple(statuses))


def detections_of(array: Any, *, base_frame: str = BASE_FRAME) -> Detections:
    """Detections of a bevdistill_ros/Detection3DArray.

    Raises:
        ValueError: The boxes are not in the frame `base_frame` or not finite, or a class is unknown.
    """
    if array.header.frame_id != base_frame:
        raise ValueError(
            f"detections are in the frame {quote(array.header.frame_id)}, but only '{base_frame}' can be scored"
        )
    unknown = {entry.class_name for entry in array.detections} - set(CLASS_NAMES)
    if unknown:
        raise ValueError(
            f"detections hold unknown classes {one_line(', '.join(sorted(unknown)))}; "
            f"known are {', '.join(CLASS_NAMES)}"
        )
    boxes = np.array([_box(entry) for entry in array.detections], dtype=np.float32).reshape(-1, BOX_SIZE)
    if not np.isfinite(boxes).all():
        raise ValueError(f"detections at {messages.stamp_of(array)} ns hold a box that is not finite")
    return Detections(
        stamp_ns=messages.stamp_of(array),
        boxes=torch.from_numpy(boxes),
        scores=torch.tensor([entry.score for entry in array.detections], dtype=torch.float32),
        labels=torch.tensor([CLASS_NAMES.index(entry.class_name) for entry in array.detections], dtype=torch.int64),
    )


def _box(entry: Any) -> list[float]:
    centre, size, velocity = entry.pose.position, entry.size, entry.velocity
    yaw = yaw_of(messages.rotation_of(entry.pose.orientation))
    return [centre.x, centre.y, centre.z, size.x, size.y, size.z, yaw, velocity.x, velocity.y]


def _status(content: Any) -> SetStatus:
    return SetStatus(
        stamp_ns=messages.stamp_of(content),
        spread_ms=float(content.spread_ms),
        latency_ms=float(content.latency_ms),
        stage_ms=dict(zip(content.stages, map(float, content.stage_ms), strict=True)),
        sets_processed=int(content.sets_processed),
        sets_dropped=int(content.sets_dropped),
        drop_reason=str(content.drop_reason),
    )


def match_samples(
    recorded: Mapping[int, Detections],
    samples: Sequence[BagSample],
    poses: Mapping[int, np.ndarray],
    reference_camera: str,
) -> Scored:
    """Give each sample the detections of the set that its reference image anchored.

    Args:
        recorded: Detections by stamp [ns].
        samples: Key frames of the bag.
        poses: map_from_base (4, 4) [m] by stamp [ns].
        reference_camera: Camera whose images anchor the sets.

    Raises:
        BagError: The bag has no image of that camera or no pose for a sample.
    """
    detections, global_from_ego, unanswered = {}, {}, []
    for sample in samples:
        stamp_ns = sample.channel_stamps_ns.get(reference_camera)
        if stamp_ns is None:
            known = ", ".join(sample.channel_stamps_ns)
            raise BagError(f"sample {sample.token} has no image of {reference_camera}; it has {known}")
        if stamp_ns not in poses:
            raise BagError(f"sample {sample.token} has no odometry at {stamp_ns} ns, the stamp of {reference_camera}")
        if stamp_ns not in recorded:
            unanswered.append(sample.token)
        detections[sample.token] = recorded.get(stamp_ns) or Detections.empty(stamp_ns)
        global_from_ego[sample.token] = torch.from_numpy(sample.global_from_map @ poses[stamp_ns])
    return Scored(detections=detections, global_from_ego=global_from_ego, unanswered=tuple(unanswered))


def merge(parts: Iterable[Scored]) -> Scored:
    """Several bags as one; a sample that two of them hold is a ValueError."""
    detections: dict[str, Detections] = {}
    global_from_ego: dict[str, Tensor] = {}
    unanswered: list[str] = []
    for part in parts:
        if twice := set(detections) & set(part.detections):
            raise ValueError(f"sample {sorted(twice)[0]} is in two of the bags; give each scene once")
        detections.update(part.detections)
        global_from_ego.update(part.global_from_ego)
        unanswered.extend(part.unanswered)
    return Scored(detections=detections, global_from_ego=global_from_ego, unanswered=tuple(unanswered))


def evaluate(nusc: NuScenes, scored: Scored, split: str, output: Path) -> Metrics:
    """Official metrics; a sample without an answer counts as one in which nothing was found.

    Raises:
        ValueError: The bags do not cover the split.
    """
    return evaluate_detections(nusc, scored.detections, scored.global_from_ego, split, output)

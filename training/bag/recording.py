"""What a detector published, read from a bag: of a replay, or as a vehicle recorded it with `ros2 bag record`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bevdistill_ros.core.boxes import BOX_SIZE
from bevdistill_ros.core.geometry import yaw_of
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.damage import Damage
from training.bag.read_bag import Bag, BagError, read_bag
from training.bag.write_bag import BASE_FRAME

VISION_TYPE = "vision_msgs/msg/Detection3DArray"


@dataclass(frozen=True, kw_only=True)
class SetStatus:
    """How one set passed through the node."""

    stamp_ns: int
    spread_ms: float
    latency_ms: float  # oldest image stamp to publish; nan for a set that was dropped
    stage_ms: Mapping[str, float]  # empty for a set that was dropped
    sets_processed: int
    sets_dropped: int
    drop_reason: str
    age_ms: Mapping[str, float] = field(default_factory=dict)  # of each camera's image at publish; nan where missing


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What the node answered to one bag, or on one drive."""

    detections: Mapping[int, Detections]  # by stamp [ns], boxes in base_link
    statuses: tuple[SetStatus, ...]  # as they came
    received_ns: Mapping[int, int] = field(default_factory=dict)  # by stamp: when the detections were recorded [ns]


def read_recording(
    path: Path, *, base_frame: str = BASE_FRAME, detections_topic: str = DETECTIONS_TOPIC, status_topic: str = ""
) -> Recording:
    """Read what a replay wrote, or what ROS recorded of a detector.

    Args:
        path: The bag.
        base_frame: Frame of the boxes; empty: whatever frame they are in.
        detections_topic: Our messages or those of vision_msgs; empty: the one topic of such messages, ours before
            those of vision_msgs.
        status_topic: How the sets passed through the node; empty: the one topic of such messages, if there is one.

    Raises:
        BagError: It is damaged, or holds no detections.
    """
    bag = read_bag(path)
    topic = detections_topic or _only(bag, messages.DETECTIONS_TYPE) or _only(bag, VISION_TYPE)
    if not topic:
        raise BagError(f"{path} holds no detections (bevdistill_ros or vision_msgs Detection3DArray)")
    is_vision = bag.topics.get(topic) == VISION_TYPE
    convert = vision_detections_of if is_vision else detections_of
    found: dict[int, Detections] = {}
    received: dict[int, int] = {}
    for received_ns, record in _received(bag, topic, VISION_TYPE if is_vision else messages.DETECTIONS_TYPE):
        detections = convert(record, base_frame=base_frame)
        found[detections.stamp_ns] = detections
        received.setdefault(detections.stamp_ns, received_ns)
    own = status_topic or (STATUS_TOPIC if STATUS_TOPIC in bag.topics else _only(bag, messages.STATUS_TYPE))
    statuses = [status for _, status in bag.decoded(own, messages.STATUS_TYPE, _status)] if own else []
    # Each status counts one set more, used or dropped; stamps would put sets dropped in a rush before the one at work.
    statuses.sort(key=lambda status: status.sets_processed + status.sets_dropped)
    return Recording(detections=found, statuses=tuple(statuses), received_ns=received)


def _only(bag: Bag, kind: str) -> str:
    """The topic of messages of a type; empty where there is none."""
    topics = [topic for topic, own in bag.topics.items() if own == kind and bag.counts.get(topic)]
    if len(topics) > 1:
        raise BagError(f"{bag.path} has several topics of {kind}: {', '.join(map(one_line, topics))}; name one")
    return topics[0] if topics else ""


def _received(bag: Bag, topic: str, kind: str) -> list[tuple[int, Any]]:
    """When each message of a topic was recorded [ns], and its content."""
    bag.check_type(topic, kind)
    store = messages.standard_types() if kind in messages.standard_types().fielddefs else messages.detector_types()
    found, damage = [], Damage()
    for message in bag.messages([topic]):
        with damage.counted(topic):
            found.append((message.received_ns, store.deserialize_cdr(message.data, kind)))
    bag.note_damage(damage)
    return found


def detections_of(array: Any, *, base_frame: str = BASE_FRAME) -> Detections:
    """Detections of a bevdistill_ros/Detection3DArray.

    Raises:
        ValueError: The boxes are not in the frame `base_frame` or not finite, or a class is unknown.
    """
    names = [entry.class_name for entry in array.detections]
    return _detections(array, names, [_box(entry) for entry in array.detections], base_frame=base_frame)


def vision_detections_of(array: Any, *, base_frame: str = BASE_FRAME) -> Detections:
    """Detections of a vision_msgs/Detection3DArray, which knows no velocities; they are 0.

    Raises:
        ValueError: As `detections_of`; or a detection has no class.
    """
    if any(not len(entry.results) for entry in array.detections):
        raise ValueError(f"detections at {messages.stamp_of(array)} ns hold a box without a class")
    best = [max(entry.results, key=lambda result: result.hypothesis.score) for entry in array.detections]
    names = [result.hypothesis.class_id for result in best]
    boxes = [_vision_box(entry) for entry in array.detections]
    scores = [result.hypothesis.score for result in best]
    return _detections(array, names, boxes, scores, base_frame=base_frame)


def _detections(
    array: Any,
    names: list[str],
    rows: list[list[float]],
    scores: list[float] | None = None,
    *,
    base_frame: str,
) -> Detections:
    if base_frame and array.header.frame_id.lstrip("/") != base_frame:
        raise ValueError(
            f"detections are in the frame {quote(array.header.frame_id)}, but only '{base_frame}' can be scored"
        )
    unknown = set(names) - set(CLASS_NAMES)
    if unknown:
        raise ValueError(
            f"detections hold unknown classes {one_line(', '.join(sorted(unknown)))}; "
            f"known are {', '.join(CLASS_NAMES)}"
        )
    boxes = np.array(rows, dtype=np.float32).reshape(-1, BOX_SIZE)
    if not np.isfinite(boxes).all():
        raise ValueError(f"detections at {messages.stamp_of(array)} ns hold a box that is not finite")
    own = [entry.score for entry in array.detections] if scores is None else scores
    return Detections(
        stamp_ns=messages.stamp_of(array),
        boxes=torch.from_numpy(boxes),
        scores=torch.tensor(own, dtype=torch.float32),
        labels=torch.tensor([CLASS_NAMES.index(name) for name in names], dtype=torch.int64),
    )


def _box(entry: Any) -> list[float]:
    centre, size, velocity = entry.pose.position, entry.size, entry.velocity
    yaw = yaw_of(messages.rotation_of(entry.pose.orientation))
    return [centre.x, centre.y, centre.z, size.x, size.y, size.z, yaw, velocity.x, velocity.y]


def _vision_box(entry: Any) -> list[float]:
    centre, size = entry.bbox.center.position, entry.bbox.size
    yaw = yaw_of(messages.rotation_of(entry.bbox.center.orientation))
    return [centre.x, centre.y, centre.z, size.x, size.y, size.z, yaw, 0.0, 0.0]


def _status(content: Any) -> SetStatus:
    return SetStatus(
        stamp_ns=messages.stamp_of(content),
        spread_ms=float(content.spread_ms),
        latency_ms=float(content.latency_ms),
        stage_ms=dict(zip(content.stages, map(float, content.stage_ms), strict=True)),
        sets_processed=int(content.sets_processed),
        sets_dropped=int(content.sets_dropped),
        drop_reason=str(content.drop_reason),
        age_ms=dict(zip(content.cameras, map(float, content.age_ms), strict=True)),
    )

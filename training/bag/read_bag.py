"""Read a rosbag2: its messages, and the calibration, samples and poses in it. No ROS is needed.

What a bag loses while it is read is counted: `Bag.losses` says which messages did not come out and which are damaged.
"""

import json
import logging
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.interface.topics import TopicMap
from training.bag import messages
from training.bag.damage import Damage
from training.bag.storage import BagError, Storages, Stored, open_storages
from training.bag.write_bag import SAMPLE_TOPIC

__all__ = [
    "Bag",
    "BagError",
    "BagMessage",
    "BagSample",
    "Losses",
    "poses_of",
    "read_bag",
    "samples_of",
]

MAX_SPAN_NS = 30 * 86_400 * messages.NANOSECONDS  # no recording is longer; stamps further apart are damaged
_MAX_NAMED = 12  # topics that a message lists

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BagMessage:
    """One message as it lies in the bag."""

    topic: str
    message_type: str  # such as sensor_msgs/msg/Image
    received_ns: int  # when it was recorded
    stamp_ns: int  # of its header; of a message without one, when it was recorded
    data: bytes  # CDR


@dataclass(frozen=True, kw_only=True)
class BagSample:
    """One key frame that has ground truth."""

    scene: str
    token: str  # nuScenes sample token
    stamp_ns: int
    channel_stamps_ns: dict[str, int]  # of the key frame of each sensor
    global_from_map: np.ndarray  # (4, 4) float64 [m]


@dataclass(kw_only=True)
class Losses:
    """What was lost while a bag was read to its end, by topic."""

    missing: dict[str, int] = field(default_factory=dict)  # messages that the bag counts and that did not come out
    damaged: dict[str, int] = field(default_factory=dict)  # messages that cannot be decoded, or hold no usable values

    def of(self, topics: Collection[str]) -> int:
        """Messages of some topics that were lost."""
        return sum(counts.get(topic, 0) for counts in (self.missing, self.damaged) for topic in topics)


@dataclass(frozen=True, kw_only=True)
class Bag:
    """A bag whose index was read, and whose messages may be read any number of times."""

    path: Path
    topics: dict[str, str]  # topic: message type
    counts: dict[str, int]  # topic: number of messages, as the bag counts them
    start_ns: int  # when the first message was recorded
    end_ns: int  # just behind the last
    losses: Losses = field(default_factory=Losses, compare=False)  # what reading has shown so far

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Messages of some topics, or all, as they were received.

        Messages that the bag counts and that do not come out, or that are too short for their header, are logged and
        counted in `losses`.

        Raises:
            BagError: The bag is damaged or has none of the topics.
        """
        chosen = {topic for topic in self.topics if topics is None or topic in topics}
        if not chosen:
            raise BagError(f"{self.path} has none of {_listed(topics or ())}; it has {_listed(self.topics)}")
        found: Counter[str] = Counter()
        with open_storages(self.path) as storages:
            for stored in storages.messages(chosen):
                if not self._is_plausible(stored):
                    continue
                try:
                    stamp_ns = messages.header_stamp(stored.data, stored.message_type)
                except (struct.error, IndexError):
                    continue
                found[stored.topic] += 1
                yield BagMessage(
                    topic=stored.topic,
                    message_type=stored.message_type,
                    received_ns=stored.received_ns,
                    stamp_ns=stored.received_ns if stamp_ns is None else stamp_ns,
                    data=stored.data,
                )
        self._note_missing(found, chosen)

    def first(self, topic: str) -> BagMessage | None:
        """The first message of a topic; None where there is none.

        Raises:
            BagError: The bag is damaged.
        """
        return next(self.messages([topic]), None) if self.counts.get(topic) else None

    def decoded(
        self, topic: str, message_type: str = "", convert: Callable[[Any], Any] = lambda content: content
    ) -> Iterator[tuple[int, Any]]:
        """Stamps [ns] of the headers and contents of a topic, as they were received.

        Damaged messages are skipped, logged and counted in `losses`.

        Args:
            topic: The topic.
            message_type: The type that its messages must have; empty for any standard type or one of ours.
            convert: Makes of a message what is yielded; an error that it raises means that the message is damaged.

        Raises:
            BagError: The bag is damaged, lacks the topic, or its messages are of another type.
        """
        self.check_type(topic, message_type or self.topics.get(topic, ""))
        message_type = self.topics[topic]
        is_standard = message_type in messages.standard_types().fielddefs
        store = messages.standard_types() if is_standard else messages.detector_types()
        if message_type not in store.fielddefs:
            raise BagError(f"{self.path}: {topic} holds {quote(message_type)}, a type that is not known")
        damage = Damage()
        try:
            for message in self.messages([topic]):
                found = []
                with damage.counted(topic):
                    found.append((message.stamp_ns, convert(store.deserialize_cdr(message.data, message_type))))
                yield from found
        finally:
            self.note_damage(damage)

    def check_type(self, topic: str, message_type: str) -> None:
        """Raise BagError unless the bag has a topic, of this message type."""
        if topic not in self.topics:
            raise BagError(f"{self.path} has no {topic}; it has {_listed(self.topics)}")
        if self.topics[topic] != message_type:
            raise BagError(f"{self.path}: {topic} holds {quote(self.topics[topic])}, but must hold {message_type}")

    def note_damage(self, damage: Damage) -> None:
        """Take damaged messages into the losses, and log each topic's once."""
        for topic, count in damage.counts.items():
            if count > self.losses.damaged.get(topic, 0):
                self.losses.damaged[topic] = count
                _LOG.warning(
                    "%s: %d of %d messages of %s are damaged and skipped: %s",
                    self.path, count, self.counts.get(topic, 0), topic, damage.reasons[topic],
                )  # fmt: skip

    def _is_plausible(self, stored: Stored) -> bool:
        """Whether a message is of its topic's type and within the time of the bag; another is one that is missing."""
        return self.start_ns <= stored.received_ns < self.end_ns and stored.message_type == self.topics[stored.topic]

    def _note_missing(self, found: Mapping[str, int], topics: Collection[str]) -> None:
        """Count what a pass over all messages of some topics lacked, and log it once."""
        missing = {topic: self.counts[topic] - found.get(topic, 0) for topic in sorted(topics)}
        missing = {topic: count for topic, count in missing.items() if count > 0}
        if any(self.losses.missing.get(topic) != count for topic, count in missing.items()):
            each = [f"{count} of {self.counts[topic]} of {one_line(topic)}" for topic, count in missing.items()]
            _LOG.warning(
                "%s: %d messages did not come out, the file is damaged: %s", self.path, sum(missing.values()),
                _listed(each),
            )  # fmt: skip
        self.losses.missing.update(missing)


def read_bag(path: Path) -> Bag:
    """Read the index of a bag directory or a single storage file.

    Raises:
        BagError: It is missing, damaged, incomplete or empty.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    with open_storages(path) as storages:
        if not sum(storages.counts.values()) and not any((storages.declared or {}).values()):
            raise BagError(f"bag {path} holds no message")
        _check_complete(path, storages)
        start_ns, end_ns = storages.span_ns
        if not 0 <= start_ns < end_ns <= start_ns + MAX_SPAN_NS:
            raise BagError(f"bag {path} cannot be right: its messages lie between {start_ns} and {end_ns} ns")
        return Bag(path=path, topics=storages.topics, counts=storages.counts, start_ns=start_ns, end_ns=end_ns)


def _check_complete(path: Path, storages: Storages) -> None:
    """Refuse a bag whose storage files and metadata count differently."""
    declared = storages.declared
    if declared is None:
        return
    expected, stored = sum(declared.values()), sum(storages.counts.values())
    if stored < expected:
        raise BagError(f"bag {path} is incomplete: {stored} of {expected} messages are there; copy or record it again")
    for topic in sorted({*declared, *storages.counts}):
        said, there = declared.get(topic, 0), storages.counts.get(topic, 0)
        if said != there:
            raise BagError(
                f"the metadata of bag {path} count {said} messages of {quote(topic)}, but its files {there}; "
                "write the metadata again with: ros2 bag reindex"
            )


def samples_of(bag: Bag) -> tuple[BagSample, ...]:
    """Key frames with ground truth, by stamp.

    Raises:
        BagError: The bag has none, or one is not readable.
    """
    if not bag.counts.get(SAMPLE_TOPIC):
        raise BagError(
            f"{bag.path} has no {SAMPLE_TOPIC}, so nothing ties it to ground truth; it can be played, not scored"
        )
    samples = [sample for _, sample in bag.decoded(SAMPLE_TOPIC, "std_msgs/msg/String", _sample_of)]
    if not samples:
        raise BagError(f"{bag.path}: no message of {SAMPLE_TOPIC} is readable, so nothing can be scored")
    return tuple(sorted(samples, key=lambda sample: sample.stamp_ns))


def poses_of(bag: Bag, layout: TopicMap) -> dict[int, np.ndarray]:
    """map_from_base (4, 4) float64 [m] by stamp [ns], from the odometry.

    Raises:
        BagError: The bag has no odometry.
    """
    return dict(pose for _, pose in bag.decoded(layout.odometry, "nav_msgs/msg/Odometry", _pose_of))


def _sample_of(content: Any) -> BagSample:
    """The key frame that a message of the sample topic describes."""
    fields = json.loads(content.data)
    origin = fields["global_from_map"]
    global_from_map = transform_from(np.array(origin["rotation"]), np.array(origin["translation"], dtype=np.float64))
    if global_from_map.shape != (4, 4) or not np.isfinite(global_from_map).all():
        raise ValueError("global_from_map is not finite")
    return BagSample(
        scene=_typed(fields["scene"], str),
        token=_typed(fields["sample_token"], str),
        stamp_ns=_typed(fields["stamp_ns"], int),
        channel_stamps_ns={name: _typed(stamp, int) for name, stamp in fields["channel_stamps_ns"].items()},
        global_from_map=global_from_map,
    )


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"{quote(value)} must be of type {kind.__name__}")
    return value


def _pose_of(content: Any) -> tuple[int, np.ndarray]:
    """Stamp [ns] and map_from_base (4, 4) [m] of an Odometry."""
    pose = messages.matrix_of(content.pose.pose.position, content.pose.pose.orientation)
    if not np.isfinite(pose).all():
        raise ValueError(f"the pose is not finite: position {pose[:3, 3].tolist()}")
    return messages.stamp_of(content), pose


def _listed(topics: Collection[str]) -> str:
    """Topics in a message, not all where there are many."""
    names = [one_line(topic) for topic in list(topics)[:_MAX_NAMED]]
    return ", ".join(names) + (f" and {len(topics) - _MAX_NAMED} more" if len(topics) > _MAX_NAMED else "")

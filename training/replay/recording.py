"""The answers of a detector as a bag."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.read_bag import MAX_SPAN_NS
from training.bag.writer import bag_writer

ANSWER_TYPES = {DETECTIONS_TOPIC: messages.DETECTIONS_TYPE, STATUS_TOPIC: messages.STATUS_TYPE}

WriteAnswer = Callable[[str, int, bytes], None]  # topic, stamp [ns], CDR


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One message of the node."""

    topic: str
    stamp_ns: int  # of its header
    received_at_s: float  # time.perf_counter()
    data: bytes  # CDR


@contextmanager
def recording_writer(path: Path, storage: StoragePlugin = StoragePlugin.MCAP) -> Iterator[WriteAnswer]:
    """Write answers to a rosbag2 directory, each at the stamp of its header; it is there when the block has ended.

    One whose stamp cannot be right lies where the one before it does.

    Raises:
        ValueError: `path` exists.
        OSError: It cannot be written.
    """
    store = messages.detector_types()
    quality = messages.quality(depth=10)
    with bag_writer(path, storage) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store, offered_qos_profiles=[quality])
            for topic, kind in ANSWER_TYPES.items()
        }
        times = _Times()
        yield lambda topic, stamp_ns, data: writer.write(connections[topic], times.at(stamp_ns), data)


@dataclass
class _Times:
    """When answers are said to have been recorded."""

    first_ns: int | None = None
    last_ns: int = 0

    def at(self, stamp_ns: int) -> int:
        """The stamp [ns]; the time before where it is negative, or further from the first than a recording is long."""
        if stamp_ns >= 0 and (self.first_ns is None or abs(stamp_ns - self.first_ns) < MAX_SPAN_NS / 2):
            self.last_ns = stamp_ns
            self.first_ns = stamp_ns if self.first_ns is None else self.first_ns
        return self.last_ns


def write_recording(answers: list[Answer], path: Path) -> Path:
    """Write answers in this order; see `recording_writer`."""
    with recording_writer(path) as write:
        for answer in answers:
            write(answer.topic, answer.stamp_ns, answer.data)
    return path

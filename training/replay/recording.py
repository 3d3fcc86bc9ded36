"""The answers of a detector as a bag."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rosbags.rosbag2 import StoragePlugin

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
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
        yield lambda topic, stamp_ns, data: writer.write(connections[topic], stamp_ns, data)


def write_recording(answers: list[Answer], path: Path) -> Path:
    """Write answers by their stamps; see `recording_writer`."""
    with recording_writer(path) as write:
        for answer in sorted(answers, key=lambda answer: answer.stamp_ns):
            write(answer.topic, answer.stamp_ns, answer.data)
    return path

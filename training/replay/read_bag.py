"""Read a rosbag2 directory: its messages, and the calibration, samples and poses in it. No ROS is needed."""

import json
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rosbags.rosbag2 import Reader, ReaderError

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.interface.topics import TopicMap, absolute
from training.replay import messages
from training.replay.write_bag import BASE_FRAME, SAMPLE_TOPIC, STATIC_TRANSFORM_TOPIC

_READ_ERRORS = (ReaderError, OSError, struct.error, ValueError, KeyError, IndexError, EOFError, AssertionError)


class BagError(ValueError):
    """A bag that cannot be read, or lacks what is asked of it."""


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


@dataclass(frozen=True, kw_only=True)
class Bag:
    """A bag that was looked through once and may be read any number of times."""

    path: Path
    topics: dict[str, str]  # topic: message type
    counts: dict[str, int]  # topic: number of messages
    start_ns: int  # when the first message was recorded
    end_ns: int  # just behind the last

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """Messages of some topics, or all, as they were received.

        Raises:
            BagError: The bag is damaged or has none of the topics.
        """
        if topics is not None and not set(topics) & set(self.topics):
            raise BagError(f"{self.path} has none of {', '.join(topics)}; it has {', '.join(self.topics)}")
        with _reading(self.path) as reader:
            chosen = [c for c in reader.connections if topics is None or absolute(c.topic) in topics]
            for connection, received_ns, data in reader.messages(chosen):
                data = bytes(data)
                stamp_ns = messages.header_stamp(data, connection.msgtype)
                yield BagMessage(
                    topic=absolute(connection.topic),
                    message_type=connection.msgtype,
                    received_ns=received_ns,
                    stamp_ns=received_ns if stamp_ns is None else stamp_ns,
                    data=data,
                )

    def first(self, topic: str) -> BagMessage | None:
        """The first message of a topic; None where there is none.

        Raises:
            BagError: The bag is damaged.
        """
        return next(self.messages([topic]), None) if self.counts.get(topic) else None

    def decoded(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Stamps [ns] of the headers and contents of a topic, as they were received.

        Raises:
            BagError: The bag is damaged or lacks the topic.
        """
        if topic not in self.topics:
            raise BagError(f"{self.path} has no {topic}; it has {', '.join(self.topics)}")
        is_standard = self.topics[topic] in messages.standard_types().fielddefs
        store = messages.standard_types() if is_standard else messages.detector_types()
        for message in self.messages([topic]):
            yield message.stamp_ns, store.deserialize_cdr(message.data, message.message_type)


def read_bag(path: Path) -> Bag:
    """Look through a bag directory or a single storage file.

    Raises:
        BagError: It is missing, damaged, incomplete or empty.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise BagError(f"{path} is no bag, or one whose recording was cut off: it has no metadata.yaml")
    with _reading(path) as reader:
        topics = {absolute(connection.topic): connection.msgtype for connection in reader.connections}
        counts = {absolute(topic): info.msgcount for topic, info in reader.topics.items()}
        start_ns, end_ns, expected = reader.start_time, reader.end_time, reader.message_count
        stored = _stored_count(reader)
    if not expected:
        raise BagError(f"bag {path} holds no message")
    if stored is not None and stored != expected:
        raise BagError(f"bag {path} is incomplete: {stored} of {expected} messages are there; copy or record it again")
    return Bag(path=path, topics=topics, counts=counts, start_ns=start_ns, end_ns=end_ns)


def rig_of(bag: Bag, layout: TopicMap, cameras: Sequence[str], *, base_frame: str = BASE_FRAME) -> CameraRig:
    """The cameras of a bag: intrinsics from `camera_info`, mountings from /tf_static.

    Raises:
        BagError: A camera's calibration is missing, or images differ in size.
    """
    check_calibrated(bag, layout, cameras)
    edges = _static_edges(bag)
    intrinsics, mountings, sizes = [], [], {}
    for camera in cameras:
        info = next(content for _, content in bag.decoded(layout.camera_info_topic(camera)))
        intrinsics.append(np.asarray(info.k).reshape(3, 3))
        mountings.append(_base_from(info.header.frame_id, edges, base_frame, bag.path))
        sizes[camera] = (int(info.height), int(info.width))
    if len(set(sizes.values())) > 1:
        described = ", ".join(f"{camera} {width}x{height}" for camera, (height, width) in sizes.items())
        raise BagError(f"{bag.path}: a rig file holds one image size, but these are {described}")
    return CameraRig(
        names=tuple(cameras),
        intrinsics=torch.from_numpy(np.stack(intrinsics)),
        ego_from_camera=torch.from_numpy(np.stack(mountings)),
        image_size=sizes[cameras[0]],
    )


def check_calibrated(bag: Bag, layout: TopicMap, cameras: Sequence[str]) -> None:
    """Raise BagError unless the bag holds intrinsics of these cameras, and mountings."""
    for camera in cameras:
        topic = layout.camera_info_topic(camera)
        if not bag.counts.get(topic):
            raise BagError(f"{bag.path} has no calibration of {camera}: {topic} is missing or empty")
    if not bag.counts.get(STATIC_TRANSFORM_TOPIC):
        raise BagError(
            f"{bag.path} has no {STATIC_TRANSFORM_TOPIC}, so where the cameras sit is not known; give a rig file"
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
    samples = []
    for _, content in bag.decoded(SAMPLE_TOPIC):
        try:
            fields = json.loads(content.data)
            origin = fields["global_from_map"]
            sample = BagSample(
                scene=fields["scene"],
                token=fields["sample_token"],
                stamp_ns=int(fields["stamp_ns"]),
                channel_stamps_ns={name: int(stamp) for name, stamp in fields["channel_stamps_ns"].items()},
                global_from_map=transform_from(origin["rotation"], origin["translation"]),
            )
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BagError(f"{bag.path}: a message of {SAMPLE_TOPIC} is not readable: {error!r}") from error
        samples.append(sample)
    return tuple(sorted(samples, key=lambda sample: sample.stamp_ns))


def poses_of(bag: Bag, layout: TopicMap) -> dict[int, np.ndarray]:
    """map_from_base (4, 4) float64 [m] by stamp [ns], from the odometry."""
    return {
        messages.stamp_of(content): messages.matrix_of(content.pose.pose.position, content.pose.pose.orientation)
        for _, content in bag.decoded(layout.odometry)
    }


def _static_edges(bag: Bag) -> dict[str, tuple[str, np.ndarray]]:
    """child frame: (parent frame, parent_from_child)."""
    edges = {}
    for _, content in bag.decoded(STATIC_TRANSFORM_TOPIC):
        for entry in content.transforms:
            matrix = messages.matrix_of(entry.transform.translation, entry.transform.rotation)
            edges[entry.child_frame_id.lstrip("/")] = (entry.header.frame_id.lstrip("/"), matrix)
    return edges


def _base_from(frame: str, edges: dict[str, tuple[str, np.ndarray]], base_frame: str, path: Path) -> np.ndarray:
    """base_from_frame (4, 4), along the chain of parents."""
    base_from_frame, current = np.eye(4), frame.lstrip("/")
    for _ in range(len(edges) + 1):
        if current == base_frame:
            return base_from_frame
        if current not in edges:
            break
        current, parent_from_child = edges[current]
        base_from_frame = parent_from_child @ base_from_frame
    raise BagError(f"{path}: {STATIC_TRANSFORM_TOPIC} does not connect '{frame}' to '{base_frame}'")


def _stored_count(reader: Reader) -> int | None:
    """Messages that the storage files of a directory hold; None for a single file, which has no other count."""
    storages = getattr(reader.storage, "storages", None)
    if storages is None:
        return None
    return sum(storage.metadata.message_count for storage in storages)


@contextmanager
def _reading(path: Path) -> Iterator[Reader]:
    try:
        with Reader(path) as reader:
            yield reader
    except BagError:
        raise
    except _READ_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BagError(f"bag {path} cannot be read: {reason}") from error

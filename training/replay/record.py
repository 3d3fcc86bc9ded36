"""Record what the node answers, while a bag is played to it."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import CompressedImage

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, OVERLAY_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.writer import bag_writer
from training.replay.message_classes import message_class
from training.replay.play import ReplayError, Wait

_TYPES = {DETECTIONS_TOPIC: messages.DETECTIONS_TYPE, STATUS_TOPIC: messages.STATUS_TYPE}

_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One message of the node."""

    topic: str
    stamp_ns: int  # of its header
    received_at_s: float  # time.perf_counter()
    data: bytes  # CDR


@dataclass
class Recorder:
    """Subscriptions to the node's detections and pipeline status.

    Args:
        node: Owns the subscriptions.
        namespace: Of the detector; what is recorded has the topics of a node without one.
        overlay: Whether to record the node's overlay, which it draws only for subscribers.
    """

    node: Node
    namespace: str = ""
    overlay: bool = False
    pictures: dict[int, bytes] = field(default_factory=dict)  # JPEGs of the overlay, by stamp
    answers: list[Answer] = field(default_factory=list)
    answered_ns: set[int] = field(default_factory=set)  # stamps of sets that were detected in

    def connect(self, wait: Wait, timeout_s: float) -> None:
        """Subscribe, to detections and status as reliably as the node publishes.

        Raises:
            ReplayError: The node does not publish in time.
        """
        deadline = time.perf_counter() + timeout_s
        for topic, message_type in _TYPES.items():
            name = self.namespace + topic
            while not (publishers := self.node.get_publishers_info_by_topic(name)):
                if time.perf_counter() > deadline:
                    raise ReplayError(f"the node does not publish {name} within {timeout_s:g} s; is it active?")
                wait(_POLL_S)
            quality = QoSProfile(depth=1000, reliability=publishers[0].qos_profile.reliability)
            if quality.reliability == ReliabilityPolicy.UNKNOWN:
                quality.reliability = ReliabilityPolicy.BEST_EFFORT
            self.node.create_subscription(
                message_class(message_type),
                name,
                lambda data, topic=topic: self._receive(topic, data),
                quality,
                raw=True,
            )
        if self.overlay:
            quality = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
            self.node.create_subscription(CompressedImage, self.namespace + OVERLAY_TOPIC, self._keep_picture, quality)

    def _keep_picture(self, picture: CompressedImage) -> None:
        self.pictures[messages.stamp_of(picture)] = bytes(picture.data)

    def _receive(self, topic: str, data: bytes) -> None:
        now = time.perf_counter()
        stamp_ns = messages.stamp_in(data)
        self.answers.append(Answer(topic=topic, stamp_ns=stamp_ns, received_at_s=now, data=bytes(data)))
        if topic == DETECTIONS_TOPIC:
            self.answered_ns.add(stamp_ns)

    def take(self) -> list[Answer]:
        """What was received since the last call."""
        taken, self.answers = self.answers, []
        self.answered_ns, self.pictures = set(), {}
        return taken


def write_recording(answers: list[Answer], path: Path, storage: StoragePlugin = StoragePlugin.MCAP) -> Path:
    """Write answers as a rosbag2 directory, each at the stamp of its header.

    Raises:
        ValueError: `path` exists.
        OSError: It cannot be written.
    """
    store = messages.detector_types()
    quality = messages.quality(depth=10)
    with bag_writer(path, storage) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store, offered_qos_profiles=[quality])
            for topic, kind in _TYPES.items()
        }
        for answer in sorted(answers, key=lambda answer: answer.stamp_ns):
            writer.write(connections[answer.topic], answer.stamp_ns, answer.data)
    return path

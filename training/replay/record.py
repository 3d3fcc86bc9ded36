"""Record what the node answers, while a bag is played to it."""

import time
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, OVERLAY_TOPIC
from training.bag import messages
from training.replay.message_classes import message_class
from training.replay.play import ReplayError, Wait
from training.replay.recording import ANSWER_TYPES, Answer

_POLL_S = 0.05


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
    reported_ns: set[int] = field(default_factory=set)  # stamps of sets whose status was received
    dropped_ns: set[int] = field(default_factory=set)  # stamps of sets that the node gave up

    def connect(self, wait: Wait, timeout_s: float) -> None:
        """Subscribe, to detections and status as reliably as the node publishes.

        Raises:
            ReplayError: The node does not publish in time.
        """
        deadline = time.perf_counter() + timeout_s
        for topic, message_type in ANSWER_TYPES.items():
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
            return
        self.reported_ns.add(stamp_ns)
        status: Any = deserialize_message(data, message_class(ANSWER_TYPES[topic]))
        if not status.stages:
            self.dropped_ns.add(stamp_ns)

    def expect(self, stamp_ns: int) -> None:
        """A set goes out; forget what was said of an earlier one with its stamp, as of a recording that loops."""
        for stamps in (self.answered_ns, self.reported_ns, self.dropped_ns):
            stamps.discard(stamp_ns)

    def is_settled(self, stamp_ns: int) -> bool:
        """Whether the node has answered a set or given it up."""
        return stamp_ns in self.answered_ns or stamp_ns in self.dropped_ns

    @property
    def num_settled(self) -> int:
        """How many sets the node has answered or given up."""
        return len(self.answered_ns) + len(self.dropped_ns)

    def take(self) -> list[Answer]:
        """What was received since the last call."""
        taken, self.answers = self.answers, []
        self.answered_ns, self.reported_ns, self.dropped_ns, self.pictures = set(), set(), set(), {}
        return taken

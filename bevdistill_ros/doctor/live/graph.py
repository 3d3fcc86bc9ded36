"""A short-lived node that looks at the ROS graph and listens to topics."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile

from bevdistill_ros.node.quality import input_quality, is_latched, latched_quality

NAME = "bevdistill_doctor"
STATUS_TYPE = "bevdistill_ros/msg/PipelineStatus"  # whoever publishes it is the detector
STATUS_SUFFIX = "/debug/pipeline_status"
MIN_DISCOVERY_S = 3.0  # participants announce themselves every 3 s
QUIET_S = 1.0  # the graph is taken for complete when nothing has been added to it for so long
DISCOVERY_S = 8.0
CALL_S = 3.0
DEPTH = 20


class Graph:
    """The ROS graph as seen by a node of our own.

    Args:
        arguments: ROS arguments, such as `--ros-args -r ...`.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self._context = Context()
        rclpy.init(args=list(arguments), context=self._context)
        self.node = Node(NAME, context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Receive messages for so long, or until a condition holds; returns whether it does."""
        deadline = time.monotonic() + seconds
        while not (done := until()) and time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)
        return done

    def discover(self) -> None:
        """Wait until somebody else is seen and the graph stops growing, or for so long that nobody is there."""
        started = changed = time.monotonic()
        size = 0
        while (now := time.monotonic()) < started + DISCOVERY_S:
            self.spin(0.1)
            if (found := len(self.topics())) != size:
                size, changed = found, time.monotonic()
            if size and now > max(started + MIN_DISCOVERY_S, changed + QUIET_S):
                break

    def topics(self) -> dict[str, tuple[str, ...]]:
        """Types by topic, of topics that somebody else publishes."""
        found = self.node.get_topic_names_and_types()
        return {topic: tuple(types) for topic, types in found if self.publishers(topic)}

    def detector(self) -> str:
        """Full name of the running detector; empty where none runs. Of several, the first by name."""
        names = [
            topic.removesuffix(STATUS_SUFFIX)
            for topic, types in sorted(self.node.get_topic_names_and_types())
            if STATUS_TYPE in types and topic.endswith(STATUS_SUFFIX) and self.publishers(topic)
        ]
        return names[0] if names else ""

    def subscribed_by(self, name: str) -> dict[str, tuple[str, ...]]:
        """Types by topic that a node listens to."""
        namespace, _, base = name.rpartition("/")
        try:
            found = self.node.get_subscriber_names_and_types_by_node(base, namespace or "/")
        except rclpy.node.NodeNameNonExistentError:
            return {}
        return {topic: tuple(types) for topic, types in found}

    def publishers(self, topic: str) -> list[Any]:
        """Who publishes a topic, but for ourselves."""
        found = self.node.get_publishers_info_by_topic(topic) if topic else []  # a topic map may name none
        return [info for info in found if info.node_name != NAME]

    def quality_of(self, topic: str, name: str) -> QoSProfile | None:
        """Quality of service by which a node listens to a topic; None where it does not."""
        for info in self.node.get_subscriptions_info_by_topic(topic):
            if f"{info.node_namespace.rstrip('/')}/{info.node_name}" == name:
                return info.qos_profile
        return None

    def parameters(self, name: str, wanted: Sequence[str]) -> dict[str, Any]:
        """Values of a node's parameters; empty where it does not answer."""
        client = self.node.create_client(GetParameters, f"{name}/get_parameters")
        try:
            if not self.spin(CALL_S, until=client.service_is_ready):
                return {}
            self.spin(0.3)  # an answer is lost where the node has not seen the client yet
            future = client.call_async(GetParameters.Request(names=list(wanted)))
            if not self.spin(CALL_S, until=future.done):
                return {}
            values = future.result().values
            return {key: parameter_value_to_python(value) for key, value in zip(wanted, values, strict=True)}
        finally:
            self.node.destroy_client(client)

    def use_sim_time(self) -> None:
        """From now on the clock is that of /clock."""
        self.node.set_parameters([Parameter("use_sim_time", value=True)])

    def now_ns(self) -> int:
        """The clock [ns]."""
        return int(self.node.get_clock().now().nanoseconds)

    def subscribe(self, kind: Any, topic: str, callback: Callable[[Any], None], *, latched: bool = False) -> None:
        """Listen to a topic as the node does; also to what was sent before, where it is latched."""
        self.node.create_subscription(kind, topic, callback, input_quality(DEPTH))
        if latched and any(is_latched(info) for info in self.publishers(topic)):
            self.node.create_subscription(kind, topic, callback, latched_quality())

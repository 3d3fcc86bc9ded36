"""Publish a bag to ROS 2 in real time, as cameras would.

The bytes of the bag are published as they are. Every message goes out when it was recorded; `/clock`
follows the stamps of the headers (see `clock.py`), so that a node with `use_sim_time` sees the time by which its images
are stamped.

Processes on both sides need the Fast DDS profile `config/dds/fastdds.xml`: with the default, bursts of images are lost.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from bevdistill_ros.interface.topics import TopicMap
from training.bag.messages import NANOSECONDS
from training.bag.read_bag import Bag, BagMessage, BagSample
from training.bag.write_bag import STATIC_TRANSFORM_TOPIC
from training.replay.clock import HeaderClock
from training.replay.message_classes import message_class
from training.replay.order import stream

_CLOCK_PERIOD_S = 0.01
_POLL_S = 0.05
_SETTLE_S = 1.0  # the other side completes its half of the discovery; no interface reports when

Wait = Callable[[float], None]  # passes this time [s], and serves callbacks meanwhile
Gate = Callable[[BagMessage], bool]  # whether a message may go out already


class ReplayError(ConnectionError):
    """The other side of a replay does not answer."""


@dataclass(frozen=True, kw_only=True)
class PlayLog:
    """What was sent, by topic of the bag."""

    counts: Counter[str] = field(default_factory=Counter)
    sent_at_s: dict[tuple[str, int], float] = field(
        default_factory=dict
    )  # (topic, stamp [ns]): time.perf_counter() [s]
    late_s: list[float] = field(default_factory=list)  # how much after its time each message went out


def play(
    bag: Bag,
    *,
    layout: TopicMap,
    cameras: Sequence[str],
    rate: float = 1.0,
    timeout_s: float = 30.0,
    samples: Sequence[BagSample] | None = None,
) -> PlayLog:
    """Play a bag into a node that already runs in another process.

    Args:
        bag: The bag.
        layout: Where the bag keeps its topics.
        cameras: Names of the cameras, as the node knows them.
        rate: Speed; 0.5 takes twice the time.
        timeout_s: How long to wait for the node's subscriptions [s].
        samples: Play only the images of these key frames; None plays all.

    Raises:
        ReplayError: Nobody subscribes to the topics in time.
        BagError: The bag lacks the topics or is damaged.
    """
    with ros_node("bevdistill_player") as (node, wait):
        player = Player(node, bag.topics, layout.routes(cameras))
        player.wait_for_subscribers(wait, timeout_s)
        reference = layout.image_topic(cameras[0])
        clock = HeaderClock(bag.first(reference), reference)
        log = player.run(stream(bag, player.routes, layout, cameras, samples), rate=rate, wait=wait, clock=clock)
        wait(_SETTLE_S)  # the last messages leave before the publishers do
    return log


@contextmanager
def ros_node(name: str) -> Iterator[tuple[Node, Wait]]:
    """A node in a context of its own, which leaves other nodes of the process alone, and how to wait with it."""
    context = Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node(name, context=context, start_parameter_services=False)
    executor.add_node(node)

    def wait(seconds: float) -> None:
        deadline = time.perf_counter() + seconds
        while (left := deadline - time.perf_counter()) > 0:
            executor.spin_once(timeout_sec=left)

    try:
        yield node, wait
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


class Player:
    """Publishers for the topics of bags.

    Args:
        node: Owns the publishers.
        types: Message types of the topics of the bags.
        routes: Topic of the bag -> topic to publish; those without a type are left out.
        namespace: Goes before all that is published, /clock and transforms too.
    """

    def __init__(self, node: Node, types: Mapping[str, str], routes: Mapping[str, str], namespace: str = "") -> None:
        self.routes = {source: namespace + target for source, target in routes.items() if source in types}
        self._publishers: dict[str, Publisher] = {}
        for source, target in self.routes.items():
            latched = routes[source] == STATIC_TRANSFORM_TOPIC
            quality = QoSProfile(
                depth=100,
                reliability=ReliabilityPolicy.RELIABLE,  # matches every subscriber
                durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            )
            self._publishers[source] = node.create_publisher(message_class(types[source]), target, quality)
        clock = message_class("rosgraph_msgs/msg/Clock")
        self._clock_message = clock()
        self._clock = node.create_publisher(clock, f"{namespace}/clock", 1)
        self._now_ns: int | None = None

    @property
    def clock_ns(self) -> int | None:
        """What /clock shows [ns]; None before anything is played."""
        return self._now_ns

    def wait_for_subscribers(
        self, wait: Wait, timeout_s: float, *, check: Callable[[], None] = lambda: None, required: Collection[str] = ()
    ) -> None:
        """Wait until somebody subscribes to every topic, or to the `required` ones.

        Args:
            wait: See `Wait`.
            timeout_s: How long [s].
            check: Called while waiting; raises what makes waiting hopeless.
            required: Topics of the bag; all that are played if empty.

        Raises:
            ReplayError: It takes too long.
        """
        wanted = [source for source in (required or self.routes) if source in self._publishers]
        deadline = time.perf_counter() + timeout_s
        while missing := [s for s in wanted if not self._publishers[s].get_subscription_count()]:
            check()
            if time.perf_counter() > deadline:
                topics = ", ".join(self.routes[source] for source in missing)
                raise ReplayError(
                    f"nobody subscribed to {topics} within {timeout_s:g} s; is the node active, with these cameras,"
                    " in the same ROS_DOMAIN_ID?"
                )
            wait(_POLL_S)
        wait(_SETTLE_S)

    def run(
        self,
        messages: Iterable[BagMessage],
        *,
        rate: float,
        wait: Wait,
        gate: Gate | None = None,
        clock: HeaderClock | None = None,
    ) -> PlayLog:
        """Publish messages when they were recorded.

        Args:
            messages: As they were received, each of a topic that has a route.
            rate: Speed; 0.5 takes twice the time.
            wait: See `Wait`.
            gate: Holds time still until a message may go out, and while this process is stalled; None holds nothing.
            clock: What /clock shows; None lets it follow every header.
        """
        if not rate > 0:
            raise ValueError(f"rate must be above 0, but is {rate}")
        log = PlayLog()
        clock = clock or HeaderClock(None, "")
        origin_s, origin_ns = 0.0, 0
        self._now_ns = None
        for message in messages:
            if not log.counts:
                origin_s, origin_ns = time.perf_counter(), message.received_ns
            origin_s += self._hold(message, wait, gate)
            due_s = origin_s + (message.received_ns - origin_ns) / NANOSECONDS / rate
            self._wait_until(due_s, clock.after(message), wait)
            self._publishers[message.topic].publish(message.data)
            now = time.perf_counter()
            log.counts[message.topic] += 1
            log.sent_at_s[message.topic, message.stamp_ns] = now
            log.late_s.append(now - due_s)
            if gate is not None:
                origin_s += now - due_s  # else what is due meanwhile would go out at once, more than the node can take
        return log

    def _wait_until(self, due_s: float, clock_ns: int, wait: Wait) -> None:
        """Wait for the moment `due_s` of time.perf_counter, while /clock goes evenly to `clock_ns`."""
        begin_ns = clock_ns if self._now_ns is None else self._now_ns
        begin_s = time.perf_counter()
        while (left := due_s - time.perf_counter()) > 0:
            self._publish_clock(clock_ns - round((clock_ns - begin_ns) * left / (due_s - begin_s)))
            wait(min(left, _CLOCK_PERIOD_S))
        self._publish_clock(clock_ns)

    def run_on(self, seconds: float, *, rate: float, wait: Wait, until: Callable[[], bool]) -> bool:
        """Let time go on after the last message, until something holds; False where it does not within `seconds`."""
        deadline = time.perf_counter() + seconds
        while not until():
            if time.perf_counter() > deadline:
                return False
            wait(_CLOCK_PERIOD_S)
            self._publish_clock((self._now_ns or 0) + round(_CLOCK_PERIOD_S * rate * NANOSECONDS))
        return True

    def _hold(self, message: BagMessage, wait: Wait, gate: Gate | None) -> float:
        """Wait for the gate; returns the time that it took [s]."""
        if gate is None or gate(message):
            return 0.0
        start = time.perf_counter()
        while not gate(message):
            wait(_CLOCK_PERIOD_S)
        return time.perf_counter() - start

    def _publish_clock(self, stamp_ns: int) -> None:
        self._now_ns = stamp_ns
        self._clock_message.clock.sec, self._clock_message.clock.nanosec = divmod(stamp_ns, NANOSECONDS)
        self._clock.publish(self._clock_message)

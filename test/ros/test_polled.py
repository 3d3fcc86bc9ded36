"""Subscriptions whose messages wait until they are asked for."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")

from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy

from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.polled import PolledSubscription
from bevdistill_ros.node.rig.odometry import OdometryBuffer
from bevdistill_ros.node.sources import OdometryTopic
from bevdistill_ros.node.unpack import stamp_of

QUALITY = QoSProfile(depth=3, reliability=QoSReliabilityPolicy.RELIABLE)
TIMEOUT_S = 20.0


class Topic:
    """A publisher and a polled subscription of a node that spins."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("polled")
        self.publisher = self.node.create_publisher(Odometry, "odometry", QoSProfile(depth=10))
        self.stamps: list[int] = []
        self.polled = PolledSubscription(self.node, Odometry, "odometry", qos_profile=QUALITY)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.wait_until(lambda: self.publisher.get_subscription_count())

    def take(self) -> None:
        self.stamps += [stamp_of(message) for message in self.polled.take()]

    def send(self, *stamps: int) -> None:
        for stamp in stamps:
            message = Odometry(header=header_from(stamp, "odom"))
            message.pose.pose.orientation.w = 1.0
            self.publisher.publish(message)

    def wait_until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, "in vain"
            self.executor.spin_once(timeout_sec=0.01)


@pytest.fixture
def topic() -> Iterator[Topic]:
    rclpy.init()
    made = Topic()
    yield made
    made.executor.shutdown()
    made.node.destroy_node()
    rclpy.shutdown()


def take_until(topic: Topic, last: int) -> None:
    def taken() -> bool:
        topic.take()
        return last in topic.stamps

    topic.wait_until(taken)


def test_messages_wait_until_they_are_asked_for_and_come_in_order(topic: Topic) -> None:
    topic.send(1, 2, 3)
    rested = time.monotonic() + 0.3
    topic.wait_until(lambda: time.monotonic() > rested)
    assert topic.stamps == []
    take_until(topic, last=3)
    assert topic.stamps == [1, 2, 3]
    topic.take()
    assert topic.stamps == [1, 2, 3]


def test_of_more_than_may_wait_the_oldest_go(topic: Topic) -> None:
    topic.send(1, 2, 3, 4, 5)
    rested = time.monotonic() + 0.5
    topic.wait_until(lambda: time.monotonic() > rested)
    take_until(topic, last=5)
    assert topic.stamps == [3, 4, 5]


def test_a_destroyed_subscription_has_nothing(topic: Topic) -> None:
    topic.send(1)
    topic.node.destroy_subscription(topic.polled.sub)
    topic.take()
    assert topic.stamps == []


def test_who_waits_for_odometry_asks_for_it(topic: Topic) -> None:
    source = OdometryTopic(topic.node, "base_link", on_fault=lambda subject, reason: None)
    buffer = OdometryBuffer(source.take)
    publisher = topic.node.create_publisher(Odometry, "~/input/odometry", QoSProfile(depth=10))
    topic.wait_until(publisher.get_subscription_count)
    message = Odometry(header=header_from(7_000_000_000, "odom"))
    message.pose.pose.orientation.w = 1.0
    sender = threading.Timer(0.2, publisher.publish, args=[message])
    sender.start()
    assert buffer.wait_for(7_000_000_000, timeout_s=TIMEOUT_S)
    assert buffer.odom_from_ego(7_000_000_000) is not None
    sender.join()

"""What the node listens to: who sends there, and sets that are given up while nothing comes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from bevdistill_ros.interface.parameters import DetectorParameters, SyncParameters
from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.records import ImageSet
from bevdistill_ros.node.sets import Listeners
from bevdistill_ros.node.subscriptions import Subscriptions

BEST_EFFORT = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
TIMEOUT_S = 20.0


class Listening:
    """Subscriptions of two cameras, and drivers for them in another node."""

    def __init__(self, name: str, **parameters: Any) -> None:
        self.topic = f"/{name}/input/{{}}/image/compressed"
        overrides = [Parameter(key, value=value) for key, value in parameters.items()]
        self.node = rclpy.create_node(name, parameter_overrides=overrides)
        # As in a process of their own: one participant cannot know a topic by two types.
        self._elsewhere = Context()
        rclpy.init(context=self._elsewhere)
        self.drivers = rclpy.create_node(f"{name}_drivers", context=self._elsewhere)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self.sets: list[ImageSet] = []
        self.dropped: list[str] = []
        self.images: list[str] = []
        listeners = Listeners(
            on_set=self.sets.append,
            on_image=self.images.append,
            on_drop=lambda lost: self.dropped.append(lost.reason),
            on_clock_jump=lambda stamp: None,
            on_fault=lambda subject, message: None,
        )
        parameters = DetectorParameters(cameras=("LEFT", "FRONT"), sync=SyncParameters(reference_camera="FRONT"))
        self.subscriptions = Subscriptions(self.node, parameters, listeners)

    def wait_until(self, condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def close(self) -> None:
        self.subscriptions.close()
        self._executor.shutdown()
        self.node.destroy_node()
        self.drivers.destroy_node()
        rclpy.shutdown(context=self._elsewhere)


@pytest.fixture(scope="module", autouse=True)
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def listening(request: pytest.FixtureRequest) -> Iterator[Listening]:
    # QoS overrides name the topic, so the node's name is fixed.
    made = Listening("listening", **getattr(request, "param", {}))
    yield made
    made.close()


def test_description_names_how_many_send(listening: Listening) -> None:
    listening.drivers.create_publisher(CompressedImage, listening.topic.format("LEFT"), BEST_EFFORT)
    left, front = listening.topic.format("LEFT"), listening.topic.format("FRONT")
    wanted = {"LEFT": f"{left}, 1 publisher", "FRONT": f"{front}, no publishers"}
    assert listening.wait_until(lambda: listening.subscriptions.described() == wanted), (
        listening.subscriptions.described()
    )


def test_description_names_of_messages_of_another_type(listening: Listening) -> None:
    listening.drivers.create_publisher(Image, listening.topic.format("LEFT"), BEST_EFFORT)
    end = "1 publisher, which sends sensor_msgs/msg/Image instead of sensor_msgs/msg/CompressedImage"
    found = listening.subscriptions.described
    assert listening.wait_until(lambda: found()["LEFT"].endswith(end)), found()


@pytest.mark.parametrize(
    "listening",
    [{"qos_overrides./listening/input/LEFT/image/compressed.subscription.reliability": "reliable"}],
    indirect=True,
)
def test_description_names_of_quality_that_does_not_fit(listening: Listening) -> None:
    listening.drivers.create_publisher(CompressedImage, listening.topic.format("LEFT"), BEST_EFFORT)
    found = listening.subscriptions.described
    assert listening.wait_until(lambda: "1 publisher, whose QoS does not fit: " in found()["LEFT"]), found()
    assert "reliab" in found()["LEFT"].lower()


def test_an_unfinished_set_is_given_up_though_nothing_more_comes_and_again_later(listening: Listening) -> None:
    driver = listening.drivers.create_publisher(CompressedImage, listening.topic.format("FRONT"), BEST_EFFORT)
    assert listening.wait_until(lambda: driver.get_subscription_count())
    for _ in range(2):
        known = len(listening.images)

        def send_until_heard(known: int = known) -> bool:
            # The first image may be lost to a discovery that is not complete.
            if len(listening.images) == known:
                driver.publish(CompressedImage(header=header_from(time.time_ns(), "FRONT")))
            return len(listening.images) > known

        assert listening.wait_until(send_until_heard)
        assert listening.wait_until(lambda: len(listening.dropped) == len(listening.images)), "a set waits for ever"
        quiet = time.monotonic() + 0.3
        assert listening.wait_until(lambda quiet=quiet: time.monotonic() > quiet)
    assert set(listening.dropped) == {"missing LEFT"}
    assert listening.sets == []

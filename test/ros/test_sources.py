"""camera_info that was published before the node was there, and after."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.sources import CameraInfoTopics

TOPIC = "/sources/input/{}/camera_info"
CAMERAS = ("LATCHED", "RELIABLE", "BEST_EFFORT")
QUALITY = {
    "LATCHED": QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL),
    "RELIABLE": QoSProfile(depth=1),
    "BEST_EFFORT": QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT),
}


def info(focal: float) -> CameraInfo:
    return CameraInfo(height=90, width=160, k=[focal, 0.0, 80.0, 0.0, focal, 45.0, 0.0, 0.0, 1.0])


@pytest.fixture
def context() -> Iterator[Context]:
    made = Context()
    rclpy.init(context=made)
    yield made
    rclpy.shutdown(context=made)


def test_latched_and_repeated_calibrations_come(context: Context) -> None:
    driver = rclpy.create_node("driver", context=context)
    publishers = {
        camera: driver.create_publisher(CameraInfo, TOPIC.format(camera), QUALITY[camera]) for camera in CAMERAS
    }
    publishers["LATCHED"].publish(info(100.0))  # once, before the node is there
    node = rclpy.create_node("sources", context=context)
    topics = CameraInfoTopics(node, DetectorParameters(cameras=CAMERAS))
    store = CalibrationStore(topics.take)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(driver)

    def wait_until(condition: Callable[[], Any]) -> bool:
        deadline = time.monotonic() + 20.0
        while not condition():
            if time.monotonic() > deadline:
                return False
            for camera in CAMERAS[1:]:
                publishers[camera].publish(info(110.0))
            executor.spin_once(timeout_sec=0.02)
        return True

    assert wait_until(lambda: len(store.described(CAMERAS)[0]) == len(CAMERAS)), store.described(CAMERAS)
    assert [store.get(camera).matrix[0, 0] for camera in CAMERAS] == [100.0, 110.0, 110.0]
    publishers["LATCHED"].publish(info(120.0))
    assert wait_until(lambda: store.get("LATCHED").matrix[0, 0] == 120.0)
    names = [name for name in node._parameters if name.endswith("durability")]
    assert len(names) == len(CAMERAS) + 1, "each can be overridden, and only the latched topic is heard twice"
    topics.close()
    executor.shutdown()
    driver.destroy_node()
    node.destroy_node()

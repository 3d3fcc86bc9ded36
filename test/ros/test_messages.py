"""The messages as built: their fields, their way between two processes, and what the ROS environment promises."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
messages = pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

NUM_CAMERAS = 6
IMAGE_BYTES = 1600 * 900 * 3
DISCOVERY_S = 30.0


def detections() -> messages.Detection3DArray:
    car = messages.Detection3D(
        class_name="car",
        score=0.5,
        pose=Pose(position=Point(x=1.0, y=2.0, z=3.0), orientation=Quaternion(w=1.0)),
        size=Vector3(x=4.0, y=2.0, z=1.5),
        velocity=Vector3(x=-1.0),
        attribute="vehicle.moving",
    )
    return messages.Detection3DArray(header=Header(frame_id="base_link"), model="tiny 1", detections=[car, car])


def publish_detections(node: Node) -> None:
    publisher = node.create_publisher(messages.Detection3DArray, "detections", 1)
    while rclpy.ok():
        publisher.publish(detections())
        time.sleep(0.05)


def publish_image_bursts(node: Node) -> None:
    publishers = [node.create_publisher(Image, f"image{i}", qos_profile_sensor_data) for i in range(NUM_CAMERAS)]
    while any(publisher.get_subscription_count() == 0 for publisher in publishers):
        time.sleep(0.05)
    time.sleep(1.0)
    image = Image(data=bytes(IMAGE_BYTES))
    for _ in range(3):
        for publisher in publishers:
            publisher.publish(image)
        time.sleep(0.5)
    # The shared memory of a burst that is still to be read goes with the process.
    time.sleep(DISCOVERY_S)


@pytest.fixture
def node() -> Iterator[Node]:
    rclpy.init()
    node = Node("test_messages")
    yield node
    node.destroy_node()
    rclpy.shutdown()


@pytest.fixture
def start_publisher() -> Iterator[Callable[[str], None]]:
    processes = []

    def start(what: str) -> None:
        processes.append(subprocess.Popen([sys.executable, __file__, what]))

    yield start
    for process in processes:
        process.kill()
        process.wait()


def spin_until(node: Node, done: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    return done()


def test_fields_in_order() -> None:
    assert list(messages.Detection3D.get_fields_and_field_types().items()) == [
        ("class_name", "string"),
        ("score", "float"),
        ("pose", "geometry_msgs/Pose"),
        ("size", "geometry_msgs/Vector3"),
        ("velocity", "geometry_msgs/Vector3"),
        ("attribute", "string"),
    ]
    assert list(messages.Detection3DArray.get_fields_and_field_types().items()) == [
        ("header", "std_msgs/Header"),
        ("model", "string"),
        ("detections", "sequence<bevdistill_ros/Detection3D>"),
    ]
    assert list(messages.PipelineStatus.get_fields_and_field_types().items()) == [
        ("header", "std_msgs/Header"),
        ("cameras", "sequence<string>"),
        ("present", "sequence<boolean>"),
        ("age_ms", "sequence<float>"),
        ("spread_ms", "float"),
        ("stages", "sequence<string>"),
        ("stage_ms", "sequence<float>"),
        ("latency_ms", "float"),
        ("sets_processed", "uint64"),
        ("sets_dropped", "uint64"),
        ("drop_reason", "string"),
    ]


def test_detections_arrive_from_another_process(node: Node, start_publisher: Callable[[str], None]) -> None:
    received: list[messages.Detection3DArray] = []
    node.create_subscription(messages.Detection3DArray, "detections", received.append, 1)
    start_publisher("detections")
    assert spin_until(node, lambda: bool(received), DISCOVERY_S)
    assert received[0] == detections()


def test_transport_keeps_bursts_of_raw_images(node: Node, start_publisher: Callable[[str], None]) -> None:
    """With the shared-memory segment of Fast DDS's default a part of every burst is lost."""
    num_received = [0] * NUM_CAMERAS

    def count(camera: int) -> None:
        num_received[camera] += 1

    for camera in range(NUM_CAMERAS):
        node.create_subscription(
            Image, f"image{camera}", lambda _, camera=camera: count(camera), qos_profile_sensor_data, raw=True
        )
    start_publisher("image_bursts")
    spin_until(node, lambda: num_received == [3] * NUM_CAMERAS, DISCOVERY_S)
    assert num_received == [3] * NUM_CAMERAS


def test_lifecycle_publisher_is_silent_until_active() -> None:
    class Silent(LifecycleNode):
        def on_configure(self, state: object) -> TransitionCallbackReturn:
            self.output = self.create_lifecycle_publisher(messages.Detection3DArray, "detections", 10)
            return TransitionCallbackReturn.SUCCESS

    rclpy.init()
    node = Silent("silent")
    received: list[messages.Detection3DArray] = []
    node.create_subscription(messages.Detection3DArray, "detections", received.append, QoSProfile(depth=10))
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        node.output.publish(detections())
        assert not spin_until(node, lambda: bool(received), 0.5)
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        node.output.publish(detections())
        assert spin_until(node, lambda: bool(received), DISCOVERY_S)
        assert len(received) == 1
    finally:
        node.destroy_node()
        rclpy.shutdown()


def test_cv_bridge_decodes_a_compressed_image() -> None:
    cv2 = pytest.importorskip("cv2")
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    ramp_BGR = np.zeros((90, 160, 3), dtype=np.uint8)
    ramp_BGR[..., 0] = np.arange(160)
    ramp_BGR[..., 2] = 200
    jpeg = cv2.imencode(".jpg", ramp_BGR, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    decoded = bridge.compressed_imgmsg_to_cv2(CompressedImage(format="jpeg", data=jpeg), "bgr8")
    assert decoded.shape == (90, 160, 3)
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - ramp_BGR).mean() < 3


def test_colcon_installed_the_executable_and_the_dds_profile() -> None:
    index = pytest.importorskip("ament_index_python")
    prefix = Path(index.get_package_prefix("bevdistill_ros"))
    assert os.access(prefix / "lib" / "bevdistill_ros" / "detector_node", os.X_OK)
    share = Path(index.get_package_share_directory("bevdistill_ros"))
    assert (share / "config" / "dds" / "fastdds.xml").is_file()


if __name__ == "__main__":
    rclpy.init()
    publish = {"detections": publish_detections, "image_bursts": publish_image_bursts}[sys.argv[1]]
    publish(Node("publisher"))

"""Topics that are asked for news: camera_info and odometry. They may come while the node takes no images."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.interface.topics import own_image_topic
from bevdistill_ros.node import unpack
from bevdistill_ros.node.polled import PolledSubscription
from bevdistill_ros.node.quality import input_quality, is_latched, latched_quality
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.odometry import StampedPose

LOOK_PERIOD_S = 0.5  # between two looks for latched publishers
INFO_DEPTH = 1  # of a camera's calibrations only the newest counts
ODOMETRY_DEPTH = 200  # a queue that is full loses the pose that an image waits for


class CameraInfoTopics:
    """Calibrations from `~/input/<camera>/camera_info`.

    Args:
        node: The node.
        parameters: Its parameters.
    """

    def __init__(self, node: Node, parameters: DetectorParameters) -> None:
        self._node = node
        self._rectified = parameters.images_rectified
        self._max_pixels = parameters.max_image_pixels
        self._image_topics = {
            camera: node.resolve_topic_name(own_image_topic(camera, parameters.transport))
            for camera in parameters.cameras
        }
        self._topics = {
            camera: [
                PolledSubscription(
                    node, CameraInfo, f"~/input/{camera}/camera_info", qos_profile=input_quality(INFO_DEPTH)
                )
            ]
            for camera in parameters.cameras
        }
        self._looked_s = -math.inf

    def take(self) -> Iterator[tuple[str, Calibration | str]]:
        """Cameras of which a camera_info came, each with its calibration or why it cannot be used."""
        self._look_for_latched()
        for camera, topics in self._topics.items():
            for message in [message for topic in topics for message in topic.take()]:
                yield camera, self._calibration_of(camera, message)

    def close(self) -> None:
        """Stop listening."""
        for topics in self._topics.values():
            for topic in topics:
                self._node.destroy_subscription(topic.sub)

    def _look_for_latched(self) -> None:
        """Listen in addition to what latched topics sent before.

        No single durability matches both: volatile hears no latched message, transient local no volatile publisher, in
        whose log it would also leave a warning.
        """
        now = time.monotonic()
        if now - self._looked_s < LOOK_PERIOD_S:
            return
        self._looked_s = now
        for camera, topics in self._topics.items():
            name = topics[0].sub.topic_name
            if len(topics) == 1 and any(is_latched(info) for info in self._node.get_publishers_info_by_topic(name)):
                quality, topic = latched_quality(), f"~/input/{camera}/camera_info"
                # First, so that of two messages the repeated one is the newer.
                topics.insert(
                    0, PolledSubscription(self._node, CameraInfo, topic, qos_profile=quality, entity_id="latched")
                )

    def _calibration_of(self, camera: str, message: Any) -> Calibration | str:
        try:
            return unpack.calibration_of(
                message,
                rectified=self._rectified,
                image_topic=self._image_topics[camera],
                max_pixels=self._max_pixels,
            )
        except ValueError as error:
            return str(error)


class OdometryTopic:
    """Poses from `~/input/odometry`.

    Args:
        node: The node.
        base_frame: Frame of the ego vehicle.
        on_fault: Called with "odometry" and what is wrong with a message.
    """

    def __init__(self, node: Node, base_frame: str, on_fault: Callable[[str, str], None]) -> None:
        self._node = node
        self._base_frame = base_frame
        self._on_fault = on_fault
        self._topic = PolledSubscription(node, Odometry, "~/input/odometry", qos_profile=input_quality(ODOMETRY_DEPTH))

    def take(self) -> Iterator[StampedPose]:
        """Usable poses that came."""
        for message in self._topic.take():
            try:
                yield unpack.odometry_of(message, base_frame=self._base_frame)
            except ValueError as error:
                self._on_fault("odometry", str(error))

    def close(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._topic.sub)

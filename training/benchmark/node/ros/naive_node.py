"""The detector node as it is mostly written: stock synchroniser, cv_bridge at full size, resize, float normalisation.

It has the topics, the queue sizes and the network's input size of ours, and no network either. Called with the height
and width of the network's input: `python -m training.benchmark.node.ros.naive_node H W TRANSPORT`.
"""

import sys
from typing import Any

import cv2
import numpy as np
import rclpy
import torch
from bevdistill_ros.msg import Detection3DArray
from cv_bridge import CvBridge
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface.topics import NODE
from bevdistill_ros.node.sync.filters import Subscriber
from training.benchmark.node.drive_plan import Transport
from training.benchmark.node.ros.approximate_time import synchronize

_BRIDGE = CvBridge()
_DEPTH = 10
_SLOP_S = 0.1  # as the largest spread of our node
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)  # of ImageNet, colours in [0, 1]
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


class NaiveNode(Node):
    """Receives and prepares the images of six cameras, and answers that it detected nothing.

    Args:
        height: Rows of the network's input [px].
        width: Columns of the network's input [px].
        transport: Kind of the images.
    """

    def __init__(self, height: int, width: int, transport: Transport) -> None:
        super().__init__(NODE.lstrip("/"))
        self._height, self._width = height, width
        self._infos: dict[str, CameraInfo] = {}
        self._odometry: Odometry | None = None
        self._publisher = self.create_publisher(Detection3DArray, "~/output/detections", _DEPTH)
        quality = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        kind, suffix = (CompressedImage, "/compressed") if transport == "compressed" else (Image, "")
        filters = []
        for name in NUSCENES_CAMERAS:
            filters.append(Subscriber(self, kind, f"~/input/{name}/image{suffix}", qos_profile=quality))
            self.create_subscription(
                CameraInfo,
                f"~/input/{name}/camera_info",
                lambda info, name=name: self._infos.update({name: info}),
                quality,
            )
        self.create_subscription(Odometry, "~/input/odometry", self._on_odometry, _DEPTH)
        self._synchronizer = synchronize(filters, queue_size=_DEPTH, slop_s=_SLOP_S, callback=self._on_images)

    def _on_odometry(self, message: Odometry) -> None:
        self._odometry = message

    def _on_images(self, *messages: Any) -> None:
        pixels = [prepared(message, height=self._height, width=self._width) for message in messages]
        batch = torch.from_numpy(np.stack(pixels))
        assert batch.shape == (len(messages), 3, self._height, self._width), batch.shape
        front = messages[NUSCENES_CAMERAS.index("CAM_FRONT")]
        answer = Detection3DArray(header=front.header, model="naive")
        answer.header.frame_id = "base_link"
        self._publisher.publish(answer)


def prepared(message: Any, *, height: int, width: int) -> np.ndarray:
    """Network input (3, height, width) float32 of an Image or CompressedImage."""
    if isinstance(message, CompressedImage):
        image = _BRIDGE.compressed_imgmsg_to_cv2(message, "rgb8")
    else:
        image = _BRIDGE.imgmsg_to_cv2(message, "rgb8")
    rows = round(image.shape[0] * width / image.shape[1])
    image = cv2.resize(image, (width, rows))[max(rows - height, 0) :]
    pixels = (image.astype(np.float32) / 255.0 - _MEAN) / _STD
    missing = height - len(pixels)
    return np.pad(pixels, ((0, missing), (0, 0), (0, 0))).transpose(2, 0, 1)


def main() -> None:
    """Run the node until it is interrupted."""
    rclpy.init()
    transport: Transport = "compressed" if sys.argv[3] == "compressed" else "raw"
    node = NaiveNode(int(sys.argv[1]), int(sys.argv[2]), transport)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()

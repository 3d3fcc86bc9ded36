"""The other side of a detector: drivers of its cameras and odometry, and somebody who listens to its answers."""

import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from bevdistill_ros.msg import Detection3DArray, PipelineStatus
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, NODE, STATUS_TOPIC
from training.benchmark.node.drive_plan import Transport
from training.replay.play import Wait
from training.synth.rig import nuscenes_cameras

BASE_FRAME = "base_link"
_DEPTH = 10
_ANSWER_DEPTH = 100
_POLL_S = 0.05
_SETTLE_S = 1.0  # the other side completes its half of the discovery; no interface reports when
_STAMP = struct.Struct("<iI")  # of a header that comes first in a serialised message, behind 4 bytes of encapsulation
_STAMP_OFFSET = 4
_NANOSECONDS = 1_000_000_000


class Vehicle:
    """Publishes serialised messages, so that sending takes little of the time that is measured.

    Args:
        node: Owns the publishers and subscriptions.
        cameras: Camera names of the synthetic rig.
        transport: Kind of the images.
    """

    def __init__(self, node: Node, cameras: Sequence[str], transport: Transport) -> None:
        kind, suffix = (CompressedImage, "/compressed") if transport == "compressed" else (Image, "")
        # Best effort, as most camera drivers publish.
        quality = QoSProfile(depth=_DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._images = {
            name: node.create_publisher(kind, f"{NODE}/input/{name}/image{suffix}", quality) for name in cameras
        }
        self._infos = {
            name: node.create_publisher(CameraInfo, f"{NODE}/input/{name}/camera_info", quality) for name in cameras
        }
        self._odometry = node.create_publisher(Odometry, f"{NODE}/input/odometry", _DEPTH)
        self._still = bytearray(serialize_message(odometry()))
        self.answered: dict[int, float] = {}  # stamp of the detections [ns]: time.perf_counter() of their coming [s]
        self.statuses: list[Any] = []  # PipelineStatus messages
        self._detections = node.create_subscription(
            Detection3DArray, DETECTIONS_TOPIC, self._on_detections, _ANSWER_DEPTH, raw=True
        )
        node.create_subscription(PipelineStatus, STATUS_TOPIC, self.statuses.append, _ANSWER_DEPTH)
        self._node = node

    def connect(self, wait: Wait, timeout_s: float, check: Callable[[], object]) -> None:
        """Wait until the detector listens and answers.

        Args:
            wait: See `play.Wait`.
            timeout_s: How long [s].
            check: Called while waiting; raises what makes waiting hopeless.

        Raises:
            TimeoutError: It takes too long.
        """
        publishers = [*self._images.values(), *self._infos.values(), self._odometry]
        deadline = time.monotonic() + timeout_s
        while not (
            all(publisher.get_subscription_count() for publisher in publishers)
            and self._node.count_publishers(DETECTIONS_TOPIC)
        ):
            check()
            if time.monotonic() > deadline:
                raise TimeoutError(f"the detector did not subscribe to all cameras within {timeout_s:g} s")
            wait(_POLL_S)
        wait(_SETTLE_S)

    def send_image(self, camera: str, content: bytearray, stamp_ns: int) -> None:
        """Publish a serialised image."""
        self._images[camera].publish(stamped(content, stamp_ns))

    def send_info(self, camera: str, content: bytearray, stamp_ns: int) -> None:
        """Publish a serialised calibration."""
        self._infos[camera].publish(stamped(content, stamp_ns))

    def send_odometry(self, stamp_ns: int) -> None:
        """Publish that the vehicle stands where it stood."""
        self._odometry.publish(stamped(self._still, stamp_ns))

    def _on_detections(self, content: bytes) -> None:
        seconds, nanoseconds = _STAMP.unpack_from(content, _STAMP_OFFSET)
        self.answered[seconds * _NANOSECONDS + nanoseconds] = time.perf_counter()


def compressed_image(camera: str, jpeg: bytes, *, file_format: str = "jpeg") -> bytearray:
    """A serialised CompressedImage."""
    message = CompressedImage(format=file_format, data=jpeg)
    message.header.frame_id = camera
    return bytearray(serialize_message(message))


def raw_image(camera: str, pixels: np.ndarray, *, encoding: str = "rgb8") -> bytearray:
    """A serialised Image of (h, w, 3) uint8."""
    height, width, channels = pixels.shape
    message = Image(height=height, width=width, encoding=encoding, step=channels * width, data=pixels.tobytes())
    message.header.frame_id = camera
    return bytearray(serialize_message(message))


def images_of(folder: Path, cameras: Sequence[str], transport: Transport) -> dict[str, bytearray]:
    """Serialised images of the pictures `<camera>.jpg` of a folder."""
    files = {camera: folder / f"{camera}.jpg" for camera in cameras}
    if transport == "compressed":
        return {camera: compressed_image(camera, file.read_bytes()) for camera, file in files.items()}
    return {
        camera: raw_image(camera, cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB))
        for camera, file in files.items()
    }


def camera_infos(cameras: Sequence[str], *, width: int, height: int, broken: bool = False) -> dict[str, bytearray]:
    """Serialised calibrations of the synthetic rig; of broken ones the matrix is not a number."""
    matrices = {camera.name: camera.intrinsics for camera in nuscenes_cameras(width=width, height=height)}
    infos = {}
    for camera in cameras:
        matrix = np.full(9, np.nan) if broken else matrices[camera].ravel()
        message = CameraInfo(height=height, width=width, distortion_model="plumb_bob", k=matrix, d=[0.0] * 5)
        message.header.frame_id = camera
        infos[camera] = bytearray(serialize_message(message))
    return infos


def odometry() -> Odometry:
    """A pose at the origin."""
    message = Odometry(child_frame_id=BASE_FRAME)
    message.header.frame_id = "odom"
    message.pose.pose.orientation.w = 1.0
    return message


def stamped(content: bytearray, stamp_ns: int) -> bytes:
    """The message with this stamp; writes into `content`."""
    _STAMP.pack_into(content, _STAMP_OFFSET, *divmod(stamp_ns, _NANOSECONDS))
    return bytes(content)

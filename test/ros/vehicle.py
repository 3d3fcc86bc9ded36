"""The other side of the node: drivers of three cameras, odometry, and everything that listens to the node."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bevdistill_ros.msg import Detection3DArray, PipelineStatus
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tiny_model import CAMERAS, MS, OFFSETS_MS, SIZE, jpeg_of, picture, position, tiny_rig
from visualization_msgs.msg import MarkerArray

from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.unpack import stamp_of

TIMEOUT_S = 60.0
KINDS = {"compressed": (CompressedImage, "image/compressed"), "raw": (Image, "image")}
RELIABILITY = {  # camera drivers differ in this
    "LEFT": QoSReliabilityPolicy.BEST_EFFORT,
    "FRONT": QoSReliabilityPolicy.RELIABLE,
    "RIGHT": QoSReliabilityPolicy.RELIABLE,
}


class Vehicle:
    """Publishes what a vehicle publishes and stores what the node answers, by stamp.

    Args:
        name: Full name of the node.
        context: Where rclpy is initialised.
        odometry: Topic of the odometry.
    """

    def __init__(self, name: str, context: Context, odometry: str = "/odom") -> None:
        self.name = name
        self.transport = "compressed"
        self.shift = 0.0  # of the odometry [m]
        self.node = Node("vehicle", namespace=name.rpartition("/")[0], context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self._images = {
            (transport, camera): self.node.create_publisher(kind, f"{name}/input/{camera}/{suffix}", _quality(camera))
            for transport, (kind, suffix) in KINDS.items()
            for camera in CAMERAS
        }
        self._infos = {
            camera: self.node.create_publisher(CameraInfo, f"{name}/input/{camera}/camera_info", _quality(camera))
            for camera in CAMERAS
        }
        self._odometry = self.node.create_publisher(Odometry, odometry, 100)
        self.detections: dict[int, Any] = {}
        self.statuses: list[Any] = []
        self.markers: dict[int, Any] = {}
        self.overlay: dict[int, Any] = {}
        self.diagnostics: dict[str, Any] = {}
        self._clients: dict[str, Any] = {}
        listen = self.node.create_subscription
        listen(Detection3DArray, f"{name}/output/detections", lambda m: self.detections.update({stamp_of(m): m}), 100)
        listen(PipelineStatus, f"{name}/debug/pipeline_status", self.statuses.append, 100)
        listen(MarkerArray, f"{name}/output/markers", self._on_markers, 10)
        listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._overlay: Any = None

    def close(self) -> None:
        """Leave."""
        self.executor.shutdown()
        self.node.destroy_node()

    def look(self) -> None:
        """Subscribe to the overlay."""
        self._overlay = self.node.create_subscription(
            CompressedImage,
            f"{self.name}/output/overlay/compressed",
            lambda m: self.overlay.update({stamp_of(m): m}),
            10,
        )

    def look_away(self) -> None:
        """Unsubscribe from the overlay."""
        self.node.destroy_subscription(self._overlay)

    def wait_until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        """Listen until something holds; returns it, or None where it does not in time."""
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            if time.monotonic() > deadline:
                return None
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def rest(self, seconds: float) -> None:
        """Listen for some time."""
        self.wait_until(lambda: False, seconds)

    def connect(self, cameras: Sequence[str] = CAMERAS, *, odometry: bool = True) -> None:
        """Wait until node and vehicle hear each other, both ways."""
        publishers = [self._images[self.transport, camera] for camera in cameras]
        publishers += [self._infos[camera] for camera in cameras] + [self._odometry] * odometry
        assert self.wait_until(lambda: all(p.get_subscription_count() for p in publishers)), "nobody listens"
        topics = ("output/detections", "debug/pipeline_status", "output/markers", "output/overlay/compressed")
        assert self.wait_until(lambda: all(self.node.count_publishers(f"{self.name}/{topic}") for topic in topics))
        self.rest(0.5)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Answer of a service of the node."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, f"{self.name}/{name}")
            assert self.wait_until(self._clients[name].service_is_ready), f"no service {name}"
            # An answer is lost where the node has not seen the client yet, and no interface reports when it has.
            self.rest(1.0)
        future = self._clients[name].call_async(request)
        assert self.wait_until(future.done), f"no answer of {name}"
        return future.result()

    def state(self) -> str:
        """Lifecycle state of the node."""
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def change_state(self, transition: str) -> bool:
        """Ask for a transition such as `configure`."""
        number = getattr(Transition, f"TRANSITION_{transition.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        return bool(self.call(ChangeState, "change_state", request).success)

    def set_parameters(self, **values: Any) -> list[Any]:
        """Set parameters; double underscores stand for dots. Returns results."""
        wanted = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg() for parameter in wanted])
        return list(self.call(SetParameters, "set_parameters", request).results)

    def parameter(self, name: str) -> Any:
        """Value of a parameter; double underscores stand for dots."""
        request = GetParameters.Request(names=[name.replace("__", ".")])
        (value,) = self.call(GetParameters, "get_parameters", request).values
        return parameter_value_to_python(value)

    def send_odometry(self, stamp: int) -> None:
        """Publish where the vehicle is."""
        message = Odometry(header=header_from(stamp, "odom"), child_frame_id="base_link")
        message.pose.pose.position.x = position(stamp) + self.shift
        message.pose.pose.orientation.w = 1.0
        self.send_odometry_message(message)

    def send_odometry_message(self, message: Any) -> None:
        """Publish an Odometry message."""
        self._odometry.publish(message)

    def send_calibration(self, camera: str, stamp: int, **fields: Any) -> None:
        """Publish a CameraInfo, that of the rig but for some fields."""
        matrix = tiny_rig(SIZE).intrinsics[0].flatten().tolist()
        usual = {"header": header_from(stamp, camera), "height": SIZE[0], "width": SIZE[1], "k": matrix}
        self._infos[camera].publish(CameraInfo(**{**usual, "distortion_model": "plumb_bob", **fields}))

    def calibrate(self, stamp: int, **fields: Any) -> None:
        """Publish a CameraInfo of each camera, and wait until the node has it, as images may overtake it."""
        for camera in CAMERAS:
            self.send_calibration(camera, stamp, **fields)
        self.rest(0.5)

    def send_image(self, camera: str, stamp: int, image: Any) -> None:
        """Publish an image."""
        image.header = header_from(stamp, camera)
        self._images[self.transport, camera].publish(image)

    def send_set(
        self,
        stamp: int,
        images: Mapping[str, Any],
        *,
        calibrations: Mapping[str, Any] | None = None,
        moves: bool = True,
    ) -> None:
        """Publish odometry, calibration and images of one round; a camera without an image is dead."""
        for offset in OFFSETS_MS.values() if moves else ():
            self.send_odometry(stamp + offset * MS)
        for camera, image in images.items():
            at = stamp + OFFSETS_MS[camera] * MS
            self.send_calibration(camera, at, **(calibrations or {}).get(camera, {}))
            self.send_image(camera, at, image)

    def detect(self, stamp: int, images: Mapping[str, Any], **kwargs: Any) -> Any:
        """Send a round and wait for its detections and status."""
        self.send_set(stamp, images, **kwargs)
        status = self.wait_until(lambda: self.status(stamp))
        assert status, "neither detections nor a drop"
        assert status.stages, f"dropped: {status.drop_reason}"
        assert self.wait_until(lambda: stamp in self.detections), "no detections"
        return self.detections[stamp]

    def run(self, events: Sequence[tuple[float, Callable[[], None]]]) -> None:
        """Do things at their times [s] from now, and listen in between."""
        start = time.monotonic()
        for at, action in sorted(events, key=lambda event: event[0]):
            self.rest(at - (time.monotonic() - start))
            action()

    def status(self, stamp: int) -> Any:
        """Status of the set of a stamp; None where there is none."""
        return next((status for status in self.statuses if stamp_of(status) == stamp), None)

    def await_drop(self, stamp: int) -> str:
        """Wait until a set is dropped; returns why."""
        assert self.wait_until(lambda: self.status(stamp)), "no status"
        assert stamp not in self.detections
        return str(self.status(stamp).drop_reason)

    def said(self, name: str) -> str:
        """Message of an item of the last /diagnostics."""
        return str(self.diagnostics[name].message) if name in self.diagnostics else ""

    def _on_markers(self, message: Any) -> None:
        if message.markers:
            self.markers[stamp_of(message.markers[0])] = message

    def _on_diagnostics(self, message: Any) -> None:
        if not message.status[0].name.startswith(f"{self.name[1:]}: "):
            return
        self.diagnostics = {item.name.partition(": ")[2]: item for item in message.status}


def jpeg(seed: int) -> CompressedImage:
    """A JPEG message."""
    return CompressedImage(format="jpeg", data=jpeg_of(seed))


def raw(seed: int, encoding: str = "rgb8") -> Image:
    """A raw image message."""
    return Image(height=SIZE[0], width=SIZE[1], encoding=encoding, step=3 * SIZE[1], data=picture(seed).tobytes())


def jpegs(seed: int = 0, without: Sequence[str] = ()) -> dict[str, Any]:
    """A JPEG message a camera, of seeds that follow each other."""
    return {camera: jpeg(seed + place) for place, camera in enumerate(CAMERAS) if camera not in without}


def raws(seed: int = 0, without: Sequence[str] = ()) -> dict[str, Any]:
    """A raw image message a camera, of seeds that follow each other."""
    return {camera: raw(seed + place) for place, camera in enumerate(CAMERAS) if camera not in without}


def _quality(camera: str) -> QoSProfile:
    return QoSProfile(depth=10, reliability=RELIABILITY[camera])

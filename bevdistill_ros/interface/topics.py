"""Names of topics that recordings and drivers use: what is remapped to the node's own."""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
RAW_IMAGE = "sensor_msgs/msg/Image"

NODE_NAME = "bevdistill_detector"
NODE = f"/{NODE_NAME}"  # without a namespace
DETECTIONS_TOPIC = f"{NODE}/output/detections"
MARKERS_TOPIC = f"{NODE}/output/markers"
OVERLAY_TOPIC = f"{NODE}/output/overlay/compressed"
STATUS_TOPIC = f"{NODE}/debug/pipeline_status"

_CAMERA_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # it becomes part of a topic of the node
_TOPIC = re.compile(r"(/[^\s/{}]+)+")  # looser than ROS 2: bags of other tools have names that it refuses


@dataclass(frozen=True, kw_only=True)
class CameraTopics:
    """Topics of one camera, where they follow no template."""

    image: str
    camera_info: str = ""  # empty: none, so that the calibration comes from a rig file


@dataclass(frozen=True, kw_only=True)
class TopicMap:
    """Where a recording or a driver keeps what the detector needs.

    `{camera}` in a template stands for the camera's name, or for what `names` makes of it. Topics have a leading slash.

    Raises:
        ValueError: A topic or frame cannot be a name in ROS.
    """

    image: str = "/{camera}/image_rect_compressed"  # template; empty: only `cameras` are known
    image_type: str = COMPRESSED_IMAGE
    camera_info: str = "/{camera}/camera_info"  # template; empty: none
    odometry: str = "/odom"  # nav_msgs/Odometry; empty: none
    tf: str = "/tf"
    tf_static: str = "/tf_static"
    base_frame: str = ""  # frame of the vehicle, on the ground; empty: that of the node's parameters
    odom_frame: str = ""  # frame in which the vehicle moves; empty: that of the node's parameters
    images_rectified: bool | None = None  # None: as the node's parameters say
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # camera: what `{camera}` becomes
    cameras: Mapping[str, CameraTopics] = field(default_factory=lambda: MappingProxyType({}))  # overrides the templates

    def __post_init__(self) -> None:
        for camera in (*self.names, *self.cameras):
            if not _CAMERA_NAME.fullmatch(camera):
                raise ValueError(f"camera name '{camera}' must be letters, digits and underscores, a letter first")
        own = [topic for topics in self.cameras.values() for topic in (topics.image, topics.camera_info)]
        for topic in (self.odometry, self.tf, self.tf_static, *own):
            _check_topic(topic, topic)
        for name in ("image", "camera_info"):
            template = getattr(self, name)
            if template and "{camera}" not in template:
                raise ValueError(f"{name} must hold {{camera}} where the camera's name stands, but is '{template}'")
            _check_topic(template, template.replace("{camera}", "camera"))
        for name in ("base_frame", "odom_frame"):
            if any(letter.isspace() for letter in getattr(self, name)):
                raise ValueError(f"{name} must be the name of a frame, but is '{getattr(self, name)}'")

    @property
    def transport(self) -> Literal["raw", "compressed"]:
        """The node's parameter of this name for such images."""
        return "compressed" if self.image_type == COMPRESSED_IMAGE else "raw"

    def image_topic(self, camera: str) -> str:
        """Topic of a camera's images; a camera that the map does not know is a ValueError."""
        return self._topic(camera, "image")

    def camera_info_topic(self, camera: str) -> str:
        """Topic of a camera's calibration, empty where there is none; an unknown camera is a ValueError."""
        return self._topic(camera, "camera_info")

    def missing(self, cameras: Sequence[str]) -> list[str]:
        """Those of these cameras that the map does not know."""
        return [] if self.image else [camera for camera in cameras if camera not in self.cameras]

    def routes(self, cameras: Sequence[str], node: str = NODE) -> dict[str, str]:
        """Topic of the map -> topic of the node, for these cameras and the odometry."""
        routes = {self.odometry: f"{node}/input/odometry"} if self.odometry else {}
        for camera in cameras:
            if self.camera_info_topic(camera):
                routes[self.camera_info_topic(camera)] = f"{node}/input/{camera}/camera_info"
            routes[self.image_topic(camera)] = own_image_topic(camera, self.transport, node)
        return routes

    def transform_routes(self) -> dict[str, str]:
        """Topic of the map -> topic of tf2."""
        return {self.tf_static: "/tf_static", self.tf: "/tf"}

    def node_parameters(self) -> dict[str, object]:
        """What the map says about parameters of the node, by their names."""
        parameters: dict[str, object] = {"transport": self.transport}
        if self.base_frame:
            parameters["base_frame"] = self.base_frame
        if self.odom_frame:
            parameters["odom_frame"] = self.odom_frame
        if self.images_rectified is not None:
            parameters["images_rectified"] = self.images_rectified
        return parameters

    def _topic(self, camera: str, kind: Literal["image", "camera_info"]) -> str:
        if camera in self.cameras:
            return absolute(getattr(self.cameras[camera], kind))
        if not self.image:
            known = ", ".join(self.cameras) or "none"
            raise ValueError(f"the topic map has no camera '{camera}'; it has {known}")
        return absolute(getattr(self, kind).replace("{camera}", self.names.get(camera, camera)))


def own_image_topic(camera: str, transport: str, node: str = "~") -> str:
    """The node's own name of a camera's images."""
    return f"{node}/input/{camera}/image{'/compressed' if transport == 'compressed' else ''}"


def image_type_of(transport: str) -> str:
    """Message type of the image topics, by the node's parameter `transport`."""
    return COMPRESSED_IMAGE if transport == "compressed" else RAW_IMAGE


def absolute(topic: str) -> str:
    """A topic with its leading slash, which converted bags leave out; an empty one stays empty."""
    return f"/{topic.lstrip('/')}" if topic else ""


def is_compressed_name(topic: str) -> bool:
    """Whether image_transport or a driver names the topic of compressed images so."""
    return topic.rpartition("/")[2].lower().endswith(("compressed", "jpeg", "jpg"))


def _check_topic(shown: str, topic: str) -> None:
    if topic and not _TOPIC.fullmatch(absolute(topic)):
        raise ValueError(f"'{shown}' is not the name of a topic: no blanks, no braces, no empty parts")


_AUTOWARE_NUMBERS = {
    "CAM_FRONT": "camera0",
    "CAM_BACK": "camera1",
    "CAM_FRONT_LEFT": "camera2",
    "CAM_BACK_LEFT": "camera3",
    "CAM_FRONT_RIGHT": "camera4",
    "CAM_BACK_RIGHT": "camera5",
}

LAYOUTS: Mapping[str, TopicMap] = MappingProxyType(
    {
        "bevdistill": TopicMap(images_rectified=True),
        "nuscenes2bag": TopicMap(
            image="/{camera}/raw",
            image_type=RAW_IMAGE,
            names=MappingProxyType({camera: camera.lower() for camera in NUSCENES_CAMERAS}),
        ),
        "ros2_dataset_bridge": TopicMap(
            image="/nuscenes/{camera}/image", image_type=RAW_IMAGE, camera_info="/nuscenes/{camera}/camera_info"
        ),
        "autoware": TopicMap(
            image="/sensing/camera/{camera}/image_rect_color/compressed",
            camera_info="/sensing/camera/{camera}/camera_info",
            odometry="/localization/kinematic_state",
            images_rectified=True,
            names=MappingProxyType(_AUTOWARE_NUMBERS),
        ),
    }
)


def layout_named(name: str) -> TopicMap:
    """One of `LAYOUTS`; an unknown name is a ValueError that lists them."""
    if name not in LAYOUTS:
        raise ValueError(f"bag layout '{name}' is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def has_tf() -> bool:
    """Whether the messages of tf2 are installed, so that transforms can be played."""
    return importlib.util.find_spec("tf2_msgs") is not None

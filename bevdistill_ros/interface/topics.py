"""Names of topics that recordings and drivers use: what is remapped to the node's own."""

import importlib.util
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


@dataclass(frozen=True, kw_only=True)
class TopicLayout:
    """Where a bag or a driver keeps what the detector needs. `{camera}` stands for the camera's name there."""

    image: str = "/{camera}/image_rect_compressed"
    image_type: str = COMPRESSED_IMAGE
    camera_info: str = "/{camera}/camera_info"
    odometry: str = "/odom"
    bag_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # camera: its name in the bag

    @property
    def transport(self) -> Literal["raw", "compressed"]:
        """The node's parameter of this name for such images."""
        return "compressed" if self.image_type == COMPRESSED_IMAGE else "raw"

    def image_topic(self, camera: str) -> str:
        """Topic of a camera's images."""
        return self.image.format(camera=self.bag_names.get(camera, camera))

    def camera_info_topic(self, camera: str) -> str:
        """Topic of a camera's calibration."""
        return self.camera_info.format(camera=self.bag_names.get(camera, camera))

    def routes(self, cameras: Sequence[str], node: str = NODE) -> dict[str, str]:
        """Topic of the layout -> topic of the node, for these cameras and the odometry."""
        suffix = "image/compressed" if self.transport == "compressed" else "image"
        routes = {self.odometry: f"{node}/input/odometry"}
        for camera in cameras:
            routes[self.camera_info_topic(camera)] = f"{node}/input/{camera}/camera_info"
            routes[self.image_topic(camera)] = f"{node}/input/{camera}/{suffix}"
        return routes


_AUTOWARE_NUMBERS = {
    "CAM_FRONT": "camera0",
    "CAM_BACK": "camera1",
    "CAM_FRONT_LEFT": "camera2",
    "CAM_BACK_LEFT": "camera3",
    "CAM_FRONT_RIGHT": "camera4",
    "CAM_BACK_RIGHT": "camera5",
}

LAYOUTS: Mapping[str, TopicLayout] = MappingProxyType(
    {
        "bevdistill": TopicLayout(),
        "nuscenes2bag": TopicLayout(
            image="/{camera}/raw",
            image_type=RAW_IMAGE,
            bag_names=MappingProxyType({camera: camera.lower() for camera in NUSCENES_CAMERAS}),
        ),
        "ros2_dataset_bridge": TopicLayout(
            image="/nuscenes/{camera}/image", image_type=RAW_IMAGE, camera_info="/nuscenes/{camera}/camera_info"
        ),
        "autoware": TopicLayout(
            image="/sensing/camera/{camera}/image_rect_color/compressed",
            camera_info="/sensing/camera/{camera}/camera_info",
            odometry="/localization/kinematic_state",
            bag_names=MappingProxyType(_AUTOWARE_NUMBERS),
        ),
    }
)


def layout_named(name: str) -> TopicLayout:
    """One of `LAYOUTS`; an unknown name is a ValueError that lists them."""
    if name not in LAYOUTS:
        raise ValueError(f"bag layout '{name}' is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def has_tf() -> bool:
    """Whether the messages of tf2 are installed, so that transforms can be played."""
    return importlib.util.find_spec("tf2_msgs") is not None


def transform_routes() -> dict[str, str]:
    """Routes of the transforms, where they can be played."""
    topics = ("/tf_static", "/tf") if has_tf() else ()
    return {topic: topic for topic in topics}

"""Names of topics: of our bags, of bags that other tools write, and of the node that they are played to."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from bevdistill_ros.core.rig import NUSCENES_CAMERAS

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
RAW_IMAGE = "sensor_msgs/msg/Image"

NODE_NAME = "/bevdistill_detector"
DETECTIONS_TOPIC = f"{NODE_NAME}/output/detections"
STATUS_TOPIC = f"{NODE_NAME}/debug/pipeline_status"


@dataclass(frozen=True, kw_only=True)
class TopicLayout:
    """Where a bag keeps what the detector needs. `{camera}` stands for the camera's name in the bag."""

    image: str = "/{camera}/image_rect_compressed"
    image_type: str = COMPRESSED_IMAGE
    camera_info: str = "/{camera}/camera_info"
    odometry: str = "/odom"
    bag_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # camera: its name in the bag

    def image_topic(self, camera: str) -> str:
        """Topic of a camera's images in the bag."""
        return self.image.format(camera=self.bag_names.get(camera, camera))

    def camera_info_topic(self, camera: str) -> str:
        """Topic of a camera's calibration in the bag."""
        return self.camera_info.format(camera=self.bag_names.get(camera, camera))

    def routes(self, cameras: Sequence[str], node: str = NODE_NAME) -> dict[str, str]:
        """Topic of the bag -> topic of the node, for these cameras and the odometry."""
        suffix = "image/compressed" if self.image_type == COMPRESSED_IMAGE else "image"
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

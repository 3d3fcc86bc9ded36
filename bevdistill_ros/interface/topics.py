"""Names of topics that recordings and drivers use: what is remapped to the node's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from bevdistill_ros.core.rig import NUSCENES_CAMERAS

COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
RAW_IMAGE = "sensor_msgs/msg/Image"

NODE_NAME = "/bevdistill_detector"


@dataclass(frozen=True, kw_only=True)
class TopicLayout:
    """Where a bag or a driver keeps what the detector needs. `{camera}` stands for the camera's name there."""

    image: str = "/{camera}/image_rect_compressed"
    image_type: str = COMPRESSED_IMAGE
    camera_info: str = "/{camera}/camera_info"
    odometry: str = "/odom"
    bag_names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # camera: its name in the bag

    def image_topic(self, camera: str) -> str:
        """Topic of a camera's images."""
        return self.image.format(camera=self.bag_names.get(camera, camera))

    def camera_info_topic(self, camera: str) -> str:
        """Topic of a camera's calibration."""
        return self.camera_info.format(camera=self.bag_names.get(camera, camera))

    def routes(self, cameras: Sequence[str], node: str = NODE_NAME) -> dict[str, str]:
        """Topic of the layout -> topic of the node, for these cameras and the odometry."""
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

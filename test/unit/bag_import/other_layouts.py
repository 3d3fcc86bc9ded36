"""Bags of ours as other tools and vehicles would have recorded them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from foreign_bags import rewritten
from nuscenes import NuScenes
from same_data import transform_of

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.interface.topics import LAYOUTS
from training.bag import messages

FIVE = dict(zip(NUSCENES_CAMERAS[:5], ("p1", "wide", "p2", "s1", "tail"), strict=True))
STORE = messages.standard_types()


def renamed(layout: str, **others: str) -> dict[str, str]:
    topics = LAYOUTS[layout]
    names = {f"/{camera}/image_rect_compressed": topics.image_topic(camera) for camera in NUSCENES_CAMERAS}
    names |= {f"/{camera}/camera_info": topics.camera_info_topic(camera) for camera in NUSCENES_CAMERAS}
    return names | {"/odom": topics.odometry, **others}


def raw(message: Any, encoding: str = "bgr8") -> Any:
    pixels = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    rows, cols = pixels.shape[:2]
    padded = np.zeros((rows, cols * 3 + 5), np.uint8)  # rows of some drivers are aligned
    padded[:, : cols * 3] = pixels.reshape(rows, -1)
    image = STORE.types["sensor_msgs/msg/Image"]
    return image(
        header=message.header, height=rows, width=cols, encoding=encoding, is_bigendian=0, step=cols * 3 + 5,
        data=padded.ravel(),
    )  # fmt: skip


class MountingsOnTf:
    """All on /tf, again and again, with leading slashes."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    def __call__(self, topic: str, message: Any) -> Any:
        if topic == "/tf_static":
            self.kept = message.transforms
            return None
        if topic == "/tf":
            message.transforms = [*message.transforms, *self.kept]
            for entry in message.transforms:
                entry.header.frame_id = f"/{entry.header.frame_id.lstrip('/')}"
        return raw(message) if topic.endswith("image_rect_compressed") else message


def cloud(message: Any, *, order: str = "<", kinds: tuple[str, ...] = ("f4", "f4", "f4", "f4", "u2", "f8")) -> Any:
    """x, y, z, intensity, ring, time in another layout, organised in two rows, with points that are no echo."""
    points = message.data.view("<f4").reshape(-1, 5)
    number = len(points) + 3 + (len(points) + 3) % 2
    names, codes = ("x", "y", "z", "intensity", "ring", "timestamp"), {"f4": 7, "f8": 8, "u2": 4, "u4": 6}
    dtype = np.dtype({"names": names, "formats": [order + kind for kind in kinds], "offsets": [0, 8, 16, 24, 32, 40],
                      "itemsize": 56})  # fmt: skip
    values = np.zeros(number, dtype)
    values["x"][len(points) :] = np.nan
    for column, name in enumerate(names[:5]):
        values[name][: len(points)] = points[:, column]
    field = STORE.types["sensor_msgs/msg/PointField"]
    row = np.zeros((2, number // 2 * 56 + 24), np.uint8)
    row[:, :-24] = values.view(np.uint8).reshape(2, -1)
    return STORE.types["sensor_msgs/msg/PointCloud2"](
        header=message.header, height=2, width=number // 2, is_bigendian=order == ">", point_step=56,
        row_step=row.shape[1], data=row.ravel(), is_dense=False,
        fields=[field(name=name, offset=8 * at, datatype=codes[kind], count=1)
                for at, (name, kind) in enumerate(zip(names, kinds, strict=True))],
    )  # fmt: skip


def tracked_objects(message: Any) -> Any:
    """Autoware's message of a vision_msgs array."""
    types, package = STORE.types, "autoware_perception_msgs/msg"
    zero = types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
    twist = types["geometry_msgs/msg/Twist"](linear=zero, angular=zero)
    accel = types["geometry_msgs/msg/Accel"](linear=zero, angular=zero)
    names = {"vehicle.car": 1, "vehicle.truck": 2, "vehicle.bus.rigid": 3, "vehicle.bus.bendy": 3, "vehicle.trailer": 4}
    names |= {"vehicle.motorcycle": 5, "vehicle.bicycle": 6, "human.pedestrian.adult": 7}
    objects = []
    for entry in message.detections:
        label = names.get(entry.results[0].hypothesis.class_id, 0)
        objects.append(
            types[f"{package}/TrackedObject"](
                object_id=types["unique_identifier_msgs/msg/UUID"](
                    uuid=np.frombuffer(bytes.fromhex(entry.id), np.uint8)
                ),
                existence_probability=1.0,
                classification=[types[f"{package}/ObjectClassification"](label=label, probability=1.0)],
                kinematics=types[f"{package}/TrackedObjectKinematics"](
                    pose_with_covariance=entry.results[0].pose,
                    orientation_availability=2,
                    twist_with_covariance=types["geometry_msgs/msg/TwistWithCovariance"](
                        twist=twist, covariance=np.zeros(36)
                    ),
                    acceleration_with_covariance=types["geometry_msgs/msg/AccelWithCovariance"](
                        accel=accel, covariance=np.zeros(36)
                    ),
                    is_stationary=False,
                ),
                shape=types[f"{package}/Shape"](
                    type=0, footprint=types["geometry_msgs/msg/Polygon"](points=[]), dimensions=entry.bbox.size
                ),
            )
        )
    return types[f"{package}/TrackedObjects"](header=message.header, objects=objects)


def nuscenes2bag_bag(source: Path, target: Path) -> Path:
    """Raw images, mountings on /tf, no camera_info; boxes as markers."""
    return rewritten(
        source,
        target,
        rename=renamed("nuscenes2bag", **{"/LIDAR_TOP": "/lidar_top"}),
        drop=("/nuscenes/sample", "/annotations", *(f"/{camera}/camera_info" for camera in NUSCENES_CAMERAS)),
        change=MountingsOnTf(),
    )


def dataset_bridge_bag(source: Path, target: Path) -> Path:
    """Raw images with camera_info, mountings on /tf, no odometry; boxes of vision_msgs."""
    return rewritten(
        source,
        target,
        rename=renamed("ros2_dataset_bridge", **{"/LIDAR_TOP": "/nuscenes/LIDAR_TOP", "/annotations": "/nuscenes/gt"}),
        drop=("/nuscenes/sample", "/markers/annotations", "/odom"),
        change=MountingsOnTf(),
    )


def autoware_bag(
    source: Path, target: Path, *, order: str = "<", kinds: tuple[str, ...] = ("f4", "f4", "f4", "f4", "u2", "f8")
) -> Path:
    """Another layout of points, and objects of Autoware."""

    def change(topic: str, message: Any) -> Any:
        if topic == "/LIDAR_TOP":
            return cloud(message, order=order, kinds=kinds)
        return tracked_objects(message) if topic == "/annotations" else message

    return rewritten(
        source,
        target,
        rename=renamed("autoware", **{"/LIDAR_TOP": "/sensing/lidar/concatenated/pointcloud",
                                      "/annotations": "/perception/ground_truth/objects"}),
        drop=("/nuscenes/sample", "/markers/annotations"),
        change=change,
    )  # fmt: skip


def five(layout: Path) -> Path:
    cameras = {f"OUR_{name.upper()}": {"image": f"/cams/{name}/jpeg", "camera_info": f"/cams/{name}/info"}
               for name in FIVE.values()}  # fmt: skip
    layout.write_text(yaml.safe_dump({"image_type": "compressed", "odometry": "/vehicle/odometry",
                                      "base_frame": "base_footprint", "cameras": cameras}))  # fmt: skip
    return layout


def footprint(topic: str, message: Any) -> Any:
    for entry in getattr(message, "transforms", []):
        entry.header.frame_id = entry.header.frame_id.replace("base_link", "base_footprint")
        entry.child_frame_id = entry.child_frame_id.replace("base_link", "base_footprint")
    if hasattr(message, "child_frame_id"):
        message.child_frame_id = "base_footprint"
    return message


def five_camera_bag(source: Path, target: Path, *, drop: Sequence[str] = ()) -> Path:
    """Five cameras of other names, received late, on a vehicle whose frame is base_footprint."""
    rename = {f"/{ours}/image_rect_compressed": f"/cams/{name}/jpeg" for ours, name in FIVE.items()}
    rename |= {f"/{ours}/camera_info": f"/cams/{name}/info" for ours, name in FIVE.items()}
    return rewritten(
        source,
        target,
        late_ms=(2.0, 30.0),
        rename={**rename, "/odom": "/vehicle/odometry"},
        drop=("/nuscenes/sample", "/markers/annotations", "/CAM_BACK_RIGHT/image_rect_compressed",
              "/CAM_BACK_RIGHT/camera_info", *drop),
        change=footprint,
    )  # fmt: skip


def rig_file(nusc: NuScenes, path: Path) -> Path:
    """The cameras of a data set of one rig, as a rig file."""
    cameras = [row for row in nusc.calibrated_sensor if row["camera_intrinsic"]]
    size = next((row["height"], row["width"]) for row in nusc.sample_data if row["height"])
    rig = VehicleRig(
        names=tuple(nusc.get("sensor", row["sensor_token"])["channel"] for row in cameras),
        intrinsics=torch.tensor([row["camera_intrinsic"] for row in cameras], dtype=torch.float64),
        ego_from_camera=torch.from_numpy(np.stack([transform_of(row) for row in cameras])),
        image_sizes=(size,) * len(cameras),
    )
    path.write_text(yaml.safe_dump(rig.to_dict()))
    return path

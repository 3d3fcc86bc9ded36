"""Write a scene of a data set in nuScenes format as a rosbag2 directory; no ROS is needed.

| topic | type | stamp |
| --- | --- | --- |
| `/<camera>/image_rect_compressed` | sensor_msgs/CompressedImage | the image's; the file's own bytes |
| `/<camera>/camera_info` | sensor_msgs/CameraInfo | the image's |
| `/LIDAR_TOP` | sensor_msgs/PointCloud2 | the sweep's (optional) |
| `/tf_static` | tf2_msgs/TFMessage | begin; base_link -> sensors |
| `/tf`, `/odom` | tf2_msgs/TFMessage, nav_msgs/Odometry | every sensor stamp; map -> base_link |
| `/annotations` | vision_msgs/Detection3DArray | every key frame, in map; the id is the instance |
| `/markers/annotations` | visualization_msgs/MarkerArray | every key frame, in map |
| `/nuscenes/sample` | std_msgs/String | every key frame; JSON, see `_sample` |

`map` is the first ego pose of the scene: coordinates stay small, so that users of float32 keep their precision. What
was subtracted is `global_from_map` in `/nuscenes/sample`, which holds the rows of the annotations too: attributes,
visibility and numbers of points have no place in the messages of others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from nuscenes import NuScenes
from rosbags.interfaces import Connection, Qos
from rosbags.rosbag2 import StoragePlugin
from tqdm import tqdm

from bevdistill_ros.core.geometry import invert_rigid, quaternion_from_matrix
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from training.bag import messages
from training.bag.foreign_types import VISION_ARRAY
from training.bag.scene import Frames, KeyFrame, Scene, SensorFrame, read_scene
from training.bag.writer import bag_writer
from training.data.points import NUSCENES_LAYOUT, PointLayout, read_points
from training.data.tables import LIDAR

MAP_FRAME = "map"
BASE_FRAME = "base_link"
STATIC_TRANSFORM_TOPIC = "/tf_static"
TRANSFORM_TOPIC = "/tf"
ODOMETRY_TOPIC = "/odom"
ANNOTATION_TOPIC = "/annotations"
MARKER_TOPIC = "/markers/annotations"
SAMPLE_TOPIC = "/nuscenes/sample"

Storage = Literal["mcap", "sqlite3"]

_COLORS = {  # by the beginning of the nuScenes category
    "vehicle": (1.0, 0.62, 0.0, 0.5),
    "human": (0.0, 0.35, 0.9, 0.5),
    "movable_object": (0.45, 0.5, 0.55, 0.5),
}
_OTHER_COLOR = (1.0, 1.0, 1.0, 0.5)


@dataclass(frozen=True, kw_only=True)
class _Message:
    topic: str
    stamp_ns: int
    content: object


def image_topic(camera: str) -> str:
    """Topic of a camera's images in our bags."""
    return f"/{camera}/image_rect_compressed"


def camera_info_topic(camera: str) -> str:
    """Topic of a camera's calibration in our bags."""
    return f"/{camera}/camera_info"


def write_bag(
    nusc: NuScenes,
    scene_name: str,
    output: Path,
    *,
    cameras: Sequence[str] | None = NUSCENES_CAMERAS,
    storage: Storage = "mcap",
    frames: Frames = "all",
    with_lidar: bool = False,
    lidar: str = LIDAR,
    layout: PointLayout = NUSCENES_LAYOUT,
    progress: bool = True,
) -> Path:
    """Write one scene.

    The bag appears under its name only when it is complete.

    Args:
        nusc: The data set.
        scene_name: Name of the scene.
        output: Directory of the bag; it must not exist.
        cameras: Channels to write; None: all cameras of the scene.
        storage: Kind of the storage file.
        frames: Every image there is, or those of the key frames only.
        with_lidar: Write the LiDAR sweeps too.
        lidar: Channel of the LiDAR.
        layout: Of the LiDAR files.
        progress: Show a progress bar.

    Returns:
        `output`.

    Raises:
        ValueError: `output` exists, there is no such scene, camera or storage, or a file is missing or not readable.
    """
    scene = read_scene(nusc, scene_name, cameras=cameras, frames=frames, lidar=lidar)
    return write_scene(scene, output, storage=storage, with_lidar=with_lidar, layout=layout, progress=progress)


def write_scene(
    scene: Scene,
    output: Path,
    *,
    storage: Storage = "mcap",
    with_lidar: bool = False,
    layout: PointLayout = NUSCENES_LAYOUT,
    progress: bool = True,
) -> Path:
    """Write a scene that was read already; see `write_bag`."""
    output = Path(output)
    if output.exists():
        raise ValueError(f"{output} already exists; remove it or choose another name")
    if storage not in ("mcap", "sqlite3"):
        raise ValueError(f"storage '{storage}' is not known; choose 'mcap' or 'sqlite3'")
    if with_lidar and not _lidars(scene):
        raise ValueError(f"scene '{scene.name}' has no LiDAR of the name asked for; write it without LiDAR")
    _write(scene, output, storage=storage, with_lidar=with_lidar, layout=layout, progress=progress)
    return output


def _lidars(scene: Scene) -> list[str]:
    return [channel for channel, mounting in scene.mountings.items() if mounting.intrinsics is None]


def _write(
    scene: Scene, path: Path, *, storage: Storage, with_lidar: bool, layout: PointLayout, progress: bool
) -> None:
    topics, lidars = _topics(scene, with_lidar=with_lidar), _lidars(scene)
    frames = [frame for frame in scene.frames if with_lidar or frame.channel not in lidars]
    with bag_writer(path, StoragePlugin[storage.upper()]) as writer:
        connections: dict[str, Connection] = {
            topic: writer.add_connection(
                topic, message_type, typestore=messages.standard_types(), offered_qos_profiles=[qos]
            )
            for topic, (message_type, qos) in topics.items()
        }
        total = (
            1
            + 2 * len(scene.pose_stamps_ns)
            + 3 * len(scene.key_frames)
            + sum(1 if frame.channel in lidars else 2 for frame in frames)
        )
        stream = _in_order(scene, frames, layout)
        for message in tqdm(stream, desc=scene.name, total=total, unit="msg", disable=not progress, leave=False):
            message_type = topics[message.topic][0]
            data = messages.serialize(message.content, message_type)
            writer.write(connections[message.topic], message.stamp_ns, data)


def _topics(scene: Scene, *, with_lidar: bool) -> dict[str, tuple[str, Qos]]:
    """Message type and quality of service of each topic."""
    cameras = [channel for channel, mounting in scene.mountings.items() if mounting.intrinsics is not None]
    live, latched = messages.quality(depth=10), messages.quality(depth=1, latched=True)
    topics = {
        STATIC_TRANSFORM_TOPIC: ("tf2_msgs/msg/TFMessage", latched),
        TRANSFORM_TOPIC: ("tf2_msgs/msg/TFMessage", messages.quality(depth=100)),
        ODOMETRY_TOPIC: ("nav_msgs/msg/Odometry", messages.quality(depth=100)),
    }
    for camera in cameras:
        topics[camera_info_topic(camera)] = ("sensor_msgs/msg/CameraInfo", live)
        topics[image_topic(camera)] = ("sensor_msgs/msg/CompressedImage", live)
    if with_lidar:
        topics |= {f"/{lidar}": ("sensor_msgs/msg/PointCloud2", live) for lidar in _lidars(scene)}
    samples = messages.quality(depth=len(scene.key_frames), latched=True)
    topics[SAMPLE_TOPIC] = ("std_msgs/msg/String", samples)
    topics[ANNOTATION_TOPIC] = (VISION_ARRAY, latched)
    topics[MARKER_TOPIC] = ("visualization_msgs/msg/MarkerArray", latched)
    return topics


def _in_order(scene: Scene, frames: Sequence[SensorFrame], layout: PointLayout) -> Iterator[_Message]:
    """All messages by rising stamp; of one stamp, poses come before images, so that a reader has them in time."""
    global_from_map = scene.global_from_ego[0]
    map_from_global = invert_rigid(torch.from_numpy(global_from_map)).numpy()
    entries: list[tuple[int, int, int]] = []  # stamp, rank, index
    entries += [(int(stamp), 0, index) for index, stamp in enumerate(scene.pose_stamps_ns)]
    entries += [(frame.stamp_ns, 1, index) for index, frame in enumerate(frames)]
    entries += [(key_frame.stamp_ns, 2, index) for index, key_frame in enumerate(scene.key_frames)]
    entries.sort()
    yield _static_transforms(scene, entries[0][0])
    for stamp_ns, rank, index in entries:
        if rank == 0:
            yield from _ego_motion(scene, index, stamp_ns, map_from_global)
        elif rank == 1:
            yield from _sensor(scene, frames[index], layout)
        else:
            yield _sample(scene, scene.key_frames[index], global_from_map)
            yield from _annotations(scene.key_frames[index], map_from_global)


def _static_transforms(scene: Scene, stamp_ns: int) -> _Message:
    entries = [
        (stamp_ns, BASE_FRAME, channel, mounting.ego_from_sensor) for channel, mounting in scene.mountings.items()
    ]
    return _Message(topic=STATIC_TRANSFORM_TOPIC, stamp_ns=stamp_ns, content=messages.transforms(entries))


def _ego_motion(scene: Scene, index: int, stamp_ns: int, map_from_global: np.ndarray) -> Iterator[_Message]:
    map_from_ego = map_from_global @ scene.global_from_ego[index]
    linear, angular = scene.velocity(index)
    transform = messages.transforms([(stamp_ns, MAP_FRAME, BASE_FRAME, map_from_ego)])
    odometry = messages.odometry(
        stamp_ns, parent=MAP_FRAME, child=BASE_FRAME, pose=map_from_ego, linear=linear, angular=angular
    )
    yield _Message(topic=TRANSFORM_TOPIC, stamp_ns=stamp_ns, content=transform)
    yield _Message(topic=ODOMETRY_TOPIC, stamp_ns=stamp_ns, content=odometry)


def _sensor(scene: Scene, frame: SensorFrame, layout: PointLayout) -> Iterator[_Message]:
    mounting = scene.mountings[frame.channel]
    if mounting.intrinsics is None:
        points = read_points(frame.path, layout)
        cloud = messages.point_cloud(frame.stamp_ns, frame.channel, points, layout.columns)
        yield _Message(topic=f"/{frame.channel}", stamp_ns=frame.stamp_ns, content=cloud)
        return
    info = messages.camera_info(frame.stamp_ns, frame.channel, mounting.intrinsics, mounting.size)
    yield _Message(topic=camera_info_topic(frame.channel), stamp_ns=frame.stamp_ns, content=info)
    try:
        image = messages.compressed_image(frame.stamp_ns, frame.channel, frame.path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{frame.path}: {error}") from error
    yield _Message(topic=image_topic(frame.channel), stamp_ns=frame.stamp_ns, content=image)


def _sample(scene: Scene, key_frame: KeyFrame, global_from_map: np.ndarray) -> _Message:
    """What ties stamps to ground truth; each message stands alone, so that a cut recording can be scored too."""
    content: dict[str, object] = {
        "scene": scene.name,
        "sample_token": key_frame.token,
        "stamp_ns": key_frame.stamp_ns,
        "channel_stamps_ns": dict(key_frame.channel_stamps_ns),
        "global_from_map": {
            "rotation": quaternion_from_matrix(global_from_map[:3, :3]).tolist(),
            "translation": global_from_map[:3, 3].tolist(),
        },
    }
    if key_frame.is_annotated:
        content["annotations"] = [annotation.row for annotation in key_frame.annotations]
    return _Message(topic=SAMPLE_TOPIC, stamp_ns=key_frame.stamp_ns, content=messages.json_string(content))


def _annotations(key_frame: KeyFrame, map_from_global: np.ndarray) -> Iterator[_Message]:
    boxes = [
        {
            "id": annotation.row["instance_token"],
            "category": annotation.category,
            "pose": map_from_global @ annotation.global_from_box,
            "size": annotation.size,
        }
        for annotation in key_frame.annotations
    ]
    content = messages.vision_detections(key_frame.stamp_ns, MAP_FRAME, boxes)
    yield _Message(topic=ANNOTATION_TOPIC, stamp_ns=key_frame.stamp_ns, content=content)
    cubes = [
        {
            "namespace": annotation.category,
            "id": annotation.instance,
            "pose": map_from_global @ annotation.global_from_box,
            "size": annotation.size,
            "color": _COLORS.get(annotation.category.split(".")[0], _OTHER_COLOR),
        }
        for annotation in key_frame.annotations
    ]
    content = messages.cube_markers(key_frame.stamp_ns, MAP_FRAME, cubes)
    yield _Message(topic=MARKER_TOPIC, stamp_ns=key_frame.stamp_ns, content=content)

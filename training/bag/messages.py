"""ROS 2 messages without ROS: built, written and read with the type store of rosbags.

Serialised messages are plain CDR, the same bytes that ROS 2 sends, so that a message of a bag is published as it is.
Quaternions are w-x-y-z outside this file and x-y-z-w in the messages.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from bevdistill_ros.core.geometry import matrix_from_quaternion, quaternion_from_matrix
from training.bag.foreign_types import VISION_ARRAY
from training.bag.type_stores import detector_types, standard_types

NANOSECONDS = 1_000_000_000
DETECTIONS_TYPE = "bevdistill_ros/msg/Detection3DArray"
STATUS_TYPE = "bevdistill_ros/msg/PipelineStatus"
TRANSFORMS_TYPE = "tf2_msgs/msg/TFMessage"

_UNSET = QosTime(0, 0)
_MARKER_CUBE, _MARKER_TEXT, _MARKER_ADD, _MARKER_DELETE_ALL = 1, 9, 0, 3
_FLOAT32 = 7  # sensor_msgs/PointField


def quality(*, depth: int, latched: bool = False) -> Qos:
    """Reliable quality of service, which every subscriber can match; latched ones are kept for late subscribers."""
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_UNSET,
        lifespan=_UNSET,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_UNSET,
        avoid_ros_namespace_conventions=False,
    )


def stamp_of(message: Any) -> int:
    """Stamp [ns] of the header of a message."""
    return int(message.header.stamp.sec) * NANOSECONDS + int(message.header.stamp.nanosec)


def stamp_in(data: bytes) -> int:
    """Stamp [ns] of a serialised message that begins with a header; reading the whole would cost time in a replay."""
    return _stamp_at(data, 4)


def header_stamp(data: bytes, message_type: str) -> int | None:
    """Stamp [ns] of any serialised message, of transforms that of the first; None for a message without a header."""
    if message_type == TRANSFORMS_TYPE:
        number = struct.unpack_from(f"{_byte_order(data)}I", data, 4)[0]
        return _stamp_at(data, 8) if number else None
    return stamp_in(data) if _begins_with_header(message_type) else None


def _stamp_at(data: bytes, offset: int) -> int:
    seconds, nanoseconds = struct.unpack_from(f"{_byte_order(data)}iI", data, offset)
    return int(seconds) * NANOSECONDS + int(nanoseconds)


def _byte_order(data: bytes) -> str:
    """The order of bytes that the encapsulation before a message declares."""
    return "<" if data[1] & 1 else ">"


@cache
def _begins_with_header(message_type: str) -> bool:
    """Whether a type's first field is a header; a type that is not known has none."""
    known = standard_types().fielddefs
    definition = (known if message_type in known else detector_types().fielddefs).get(message_type)
    return definition is not None and bool(definition[1]) and definition[1][0][1][1] == "std_msgs/msg/Header"


def time_message(stamp_ns: int) -> Any:
    """builtin_interfaces/Time of a stamp [ns]."""
    return _make("builtin_interfaces/msg/Time", sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)


def header(stamp_ns: int, frame: str) -> Any:
    """std_msgs/Header."""
    return _make("std_msgs/msg/Header", stamp=time_message(stamp_ns), frame_id=frame)


def compressed_image(stamp_ns: int, frame: str, content: bytes) -> Any:
    """sensor_msgs/CompressedImage that holds the bytes of an image file as they are.

    Raises:
        ValueError: The bytes are neither a JPEG nor a PNG.
    """
    return _make(
        "sensor_msgs/msg/CompressedImage",
        header=header(stamp_ns, frame),
        format=_image_format(content),
        data=np.frombuffer(content, dtype=np.uint8),
    )


def _image_format(content: bytes) -> str:
    if content.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    raise ValueError(f"neither a JPEG nor a PNG image: it begins with {content[:8].hex(' ') or 'nothing'}")


def camera_info(stamp_ns: int, frame: str, intrinsics: np.ndarray, size: tuple[int, int]) -> Any:
    """sensor_msgs/CameraInfo of a rectified camera: no distortion, R identity, P = [K|0].

    Args:
        stamp_ns: Stamp of the image [ns].
        frame: Frame of the camera.
        intrinsics: K (3, 3) [px].
        size: Height and width of the image [px].
    """
    region = _make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    k = np.asarray(intrinsics, dtype=np.float64)
    return _make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, frame),
        height=size[0],
        width=size[1],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=k.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([k, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def point_cloud(
    stamp_ns: int, frame: str, points: np.ndarray, names: Sequence[str] = ("x", "y", "z", "intensity", "ring")
) -> Any:
    """sensor_msgs/PointCloud2 of points (P, C) float32 with columns of these names: x, y, z [m] and more."""
    fields = [
        _make("sensor_msgs/msg/PointField", name=name, offset=4 * index, datatype=_FLOAT32, count=1)
        for index, name in enumerate(names)
    ]
    data = np.ascontiguousarray(points, dtype="<f4")
    return _make(
        "sensor_msgs/msg/PointCloud2",
        header=header(stamp_ns, frame),
        height=1,
        width=len(data),
        fields=fields,
        is_bigendian=False,
        point_step=4 * len(names),
        row_step=4 * len(names) * len(data),
        data=data.view(np.uint8).ravel(),
        is_dense=True,
    )


def transforms(entries: Sequence[tuple[int, str, str, np.ndarray]]) -> Any:
    """tf2_msgs/TFMessage of entries (stamp [ns], parent, child, parent_from_child (4, 4))."""
    stamped = [
        _make(
            "geometry_msgs/msg/TransformStamped",
            header=header(stamp_ns, parent),
            child_frame_id=child,
            transform=_make(
                "geometry_msgs/msg/Transform",
                translation=vector(transform[:3, 3]),
                rotation=quaternion(transform[:3, :3]),
            ),
        )
        for stamp_ns, parent, child, transform in entries
    ]
    return _make("tf2_msgs/msg/TFMessage", transforms=stamped)


def odometry(
    stamp_ns: int, *, parent: str, child: str, pose: np.ndarray, linear: np.ndarray, angular: np.ndarray
) -> Any:
    """nav_msgs/Odometry.

    Args:
        stamp_ns: Stamp [ns].
        parent: Fixed frame.
        child: Frame of the vehicle.
        pose: parent_from_child (4, 4) [m].
        linear: Velocity (3,) in the child frame [m/s].
        angular: Angular velocity (3,) in the child frame [rad/s].
    """
    twist = _make("geometry_msgs/msg/Twist", linear=vector(linear), angular=vector(angular))
    return _make(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, parent),
        child_frame_id=child,
        pose=_make("geometry_msgs/msg/PoseWithCovariance", pose=pose_message(pose), covariance=np.zeros(36)),
        twist=_make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )


def cube_markers(stamp_ns: int, frame: str, cubes: Sequence[Mapping[str, Any]]) -> Any:
    """visualization_msgs/MarkerArray of boxes, which replaces the array before it.

    Args:
        stamp_ns: Stamp [ns].
        frame: Frame of the poses.
        cubes: Each with `namespace`, `id`, `pose` (4, 4) [m], `size` (length, width, height) [m], `color` (r, g, b, a);
            with `text`, that is shown instead, as high as the size says.
    """
    clear = _marker(stamp_ns, frame, action=_MARKER_DELETE_ALL, namespace="", id=0, pose=np.eye(4), size=(0, 0, 0))
    boxes = [_marker(stamp_ns, frame, action=_MARKER_ADD, **cube) for cube in cubes]
    return _make("visualization_msgs/msg/MarkerArray", markers=[clear, *boxes])


def _marker(
    stamp_ns: int,
    frame: str,
    *,
    action: int,
    namespace: str,
    id: int,
    pose: np.ndarray,
    size: Sequence[float],
    color: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    text: str = "",
) -> Any:
    red, green, blue, alpha = color
    no_texture = _make("sensor_msgs/msg/CompressedImage", header=header(0, ""), format="", data=np.zeros(0, np.uint8))
    return _make(
        "visualization_msgs/msg/Marker",
        header=header(stamp_ns, frame),
        ns=namespace,
        id=id,
        type=_MARKER_TEXT if text else _MARKER_CUBE,
        action=action,
        pose=pose_message(pose),
        scale=vector(size),
        color=_make("std_msgs/msg/ColorRGBA", r=red, g=green, b=blue, a=alpha),
        lifetime=_make("builtin_interfaces/msg/Duration", sec=0, nanosec=0),
        frame_locked=False,
        points=[],
        colors=[],
        texture_resource="",
        texture=no_texture,
        uv_coordinates=[],
        text=text,
        mesh_resource="",
        mesh_file=_make("visualization_msgs/msg/MeshFile", filename="", data=np.zeros(0, np.uint8)),
        mesh_use_embedded_materials=False,
    )


def vision_detections(stamp_ns: int, frame: str, boxes: Sequence[Mapping[str, Any]]) -> Any:
    """vision_msgs/Detection3DArray of boxes.

    Args:
        stamp_ns: Stamp [ns].
        frame: Frame of the poses.
        boxes: Each with `id`, `category`, `pose` (4, 4) [m], `size` (length, width, height) [m].
    """
    package = VISION_ARRAY.rpartition("/")[0]
    found = []
    for box in boxes:
        pose = pose_message(box["pose"])
        hypothesis = _make(f"{package}/ObjectHypothesis", class_id=box["category"], score=1.0)
        with_covariance = _make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))
        result = _make(f"{package}/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=with_covariance)
        bounds = _make(f"{package}/BoundingBox3D", center=pose, size=vector(box["size"]))
        head = header(stamp_ns, frame)
        found.append(_make(f"{package}/Detection3D", header=head, results=[result], bbox=bounds, id=box["id"]))
    return _make(VISION_ARRAY, header=header(stamp_ns, frame), detections=found)


def json_string(content: Mapping[str, Any]) -> Any:
    """std_msgs/String that holds JSON; numbers keep all digits of float64."""
    return _make("std_msgs/msg/String", data=json.dumps(content))


def vector(values: Sequence[float] | np.ndarray) -> Any:
    """geometry_msgs/Vector3 of (x, y, z)."""
    x, y, z = (float(value) for value in values)
    return _make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)


def quaternion(rotation: np.ndarray) -> Any:
    """geometry_msgs/Quaternion of a rotation matrix (3, 3)."""
    w, x, y, z = (float(value) for value in quaternion_from_matrix(rotation))
    return _make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def pose_message(pose: np.ndarray) -> Any:
    """geometry_msgs/Pose of a transform (4, 4) [m]."""
    x, y, z = (float(value) for value in pose[:3, 3])
    point = _make("geometry_msgs/msg/Point", x=x, y=y, z=z)
    return _make("geometry_msgs/msg/Pose", position=point, orientation=quaternion(pose[:3, :3]))


def rotation_of(message: Any) -> np.ndarray:
    """Rotation matrix (3, 3) of a geometry_msgs/Quaternion; a zero quaternion is a ValueError."""
    return matrix_from_quaternion(np.array([message.w, message.x, message.y, message.z]))


def matrix_of(translation: Any, rotation: Any) -> np.ndarray:
    """Transform (4, 4) float64 of a Vector3 or Point and a Quaternion message."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_of(rotation)
    matrix[:3, 3] = translation.x, translation.y, translation.z
    return matrix


def serialize(message: Any, message_type: str) -> bytes:
    """CDR bytes of a message of a standard type."""
    return bytes(standard_types().serialize_cdr(message, message_type))


def _make(message_type: str, **fields: Any) -> Any:
    return standard_types().types[message_type](**fields)

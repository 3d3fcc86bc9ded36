"""Messages to plain data and back: the only file that knows message fields.

Messages hold quaternions x-y-z-w, everything else here w-x-y-z.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from bevdistill_ros.core.geometry import quaternion_from_yaw, transform_from
from bevdistill_ros.core.image_size import MAX_PIXELS, check_image_size
from bevdistill_ros.core.nuscenes import CLASS_NAMES, attribute_of
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.text import MAX_QUOTED, quote
from bevdistill_ros.inference.decode import image_size
from bevdistill_ros.msg import Detection3D, Detection3DArray, PipelineStatus
from bevdistill_ros.node.images import colours_lost, compressed_image, raw_image, with_cv_bridge
from bevdistill_ros.node.markers import Shape
from bevdistill_ros.node.records import Item, SetReport
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.camera_info import CameraInfoMatrices, read_calibration
from bevdistill_ros.node.rig.odometry import StampedPose

_MARKER_TYPES = {"boxes": Marker.CUBE, "velocities": Marker.ARROW, "labels": Marker.TEXT_VIEW_FACING}


def stamp_of(message: Any) -> int:
    """Stamp of a message with a header [ns]."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_of(message: Any) -> str:
    """Frame of a message with a header, without the leading slash of ROS 1, which tf2 refuses."""
    return plain_frame(message.header.frame_id)


def plain_frame(name: str) -> str:
    """A frame as tf2 names it."""
    return name.lstrip("/")


def time_from(stamp_ns: int) -> Time:
    """A time message."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header_from(stamp_ns: int, frame_id: str) -> Header:
    """A header message."""
    return Header(stamp=time_from(stamp_ns), frame_id=frame_id)


def image_size_of(message: Any) -> tuple[int, int]:
    """Height and width [px] that an Image or CompressedImage states, before anything is decoded.

    Raises:
        ValueError: A compressed image does not state its size.
    """
    if isinstance(message, CompressedImage):
        return image_size(bytes(message.data))
    return int(message.height), int(message.width)


def image_of(message: Any, *, nominal_width: int, width: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of an Image or CompressedImage.

    Args:
        message: The message; rgb8 is not copied.
        nominal_width: Columns of the whole image [px].
        width: Columns that are needed in the end [px]; a much larger compressed image is decoded at a reduced size.
        max_pixels: Pixels that the whole image may have.

    Raises:
        ValueError: The image is damaged, too large, or of a format or encoding that is not supported.
    """
    if isinstance(message, CompressedImage):
        return compressed_image(
            bytes(message.data),
            form=message.format,
            nominal_width=nominal_width,
            width=width,
            max_pixels=max_pixels,
        )
    check_image_size(int(message.height), int(message.width), max_pixels=max_pixels)
    pixels = raw_image(
        message.data, rows=message.height, cols=message.width, step=message.step, encoding=message.encoding
    )
    return with_cv_bridge(message, message.encoding) if pixels is None else pixels


def loses_colours(message: Any) -> str:
    """What to say of an image that came in colours and was compressed as grey; empty of any other."""
    if not isinstance(message, CompressedImage) or not colours_lost(message.format):
        return ""
    return f"format {quote(message.format)}: its colours were dropped before it was compressed; publish rgb8 or bgr8"


def calibration_of(
    message: Any, *, rectified: bool, image_topic: str = "", max_pixels: int = MAX_PIXELS
) -> Calibration:
    """Intrinsics from a CameraInfo.

    Args:
        message: The CameraInfo.
        rectified: Whether the images are rectified, so that P holds and no distortion is left.
        image_topic: Topic of its images, whose name may say that they are rectified.
        max_pixels: Pixels that the images may have.

    Raises:
        ValueError: The camera is not calibrated, or its calibration is not usable.
    """
    size = (int(message.height), int(message.width))
    if min(size) > 0:
        check_image_size(*size, max_pixels=max_pixels)
    if len(frame_of(message)) > MAX_QUOTED:
        raise ValueError(f"the frame's name has {len(frame_of(message))} characters, so it cannot be right")
    roi = message.roi
    if (roi.height, roi.width) not in ((0, 0), size):
        raise ValueError(f"a region of interest ({roi.width}x{roi.height} of {size[1]}x{size[0]}) is not supported")
    given = CameraInfoMatrices(
        k=np.array(message.k, dtype=np.float64).reshape(3, 3),
        p=np.array(message.p, dtype=np.float64).reshape(3, 4)[:, :3],
        d=np.array(message.d, dtype=np.float64),
        model=message.distortion_model,
    )
    return read_calibration(given, size=size, frame_id=frame_of(message), rectified=rectified, image_topic=image_topic)


def odometry_of(message: Any, *, base_frame: str) -> StampedPose:
    """Where the vehicle was, from an Odometry.

    Raises:
        ValueError: It is the pose of another frame, or not a pose.
    """
    child = plain_frame(message.child_frame_id)
    if child and child != base_frame:
        raise ValueError(f"odometry is that of frame {quote(child)}, but base_frame is '{base_frame}'")
    pose = message.pose.pose
    translation = np.array([pose.position.x, pose.position.y, pose.position.z])
    if not np.isfinite(translation).all():
        raise ValueError(f"odometry is not finite: position {translation.tolist()}")
    odom_from_ego = transform_from(_quaternion_of(pose.orientation), translation)
    return StampedPose(stamp_ns=stamp_of(message), odom_from_ego=odom_from_ego, twist=_twist_of(message.twist.twist))


def _twist_of(message: Any) -> np.ndarray | None:
    """Twist (6,); None where it is zero, which most who do not know it send, or not finite."""
    linear, angular = message.linear, message.angular
    twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    return twist if np.isfinite(twist).all() and twist.any() else None


def transform_of(message: Any) -> np.ndarray:
    """Transform (4, 4) target_from_source [m] of a TransformStamped as tf2's lookup returns it."""
    translation = message.transform.translation
    return transform_from(
        _quaternion_of(message.transform.rotation), np.array([translation.x, translation.y, translation.z])
    )


def detections_message(detections: Detections, *, frame_id: str, model: str) -> Detection3DArray:
    """Our own message."""
    message = Detection3DArray(header=header_from(detections.stamp_ns, frame_id), model=model)
    message.detections = [
        Detection3D(
            class_name=CLASS_NAMES[label],
            score=score,
            pose=_pose_from(box[:3], box[6]),
            size=Vector3(x=box[3], y=box[4], z=box[5]),
            velocity=Vector3(x=box[7], y=box[8], z=0.0),
            attribute=attribute_of(CLASS_NAMES[label], math.hypot(box[7], box[8])),
        )
        for box, score, label in _rows(detections)
    ]
    return message


def vision_detections_message(detections: Detections, *, frame_id: str) -> Any:
    """The message of vision_msgs; needs that package."""
    from vision_msgs.msg import BoundingBox3D, ObjectHypothesis, ObjectHypothesisWithPose
    from vision_msgs.msg import Detection3D as VisionDetection
    from vision_msgs.msg import Detection3DArray as VisionArray

    message = VisionArray(header=header_from(detections.stamp_ns, frame_id))
    for box, score, label in _rows(detections):
        pose = _pose_from(box[:3], box[6])
        element = VisionDetection(header=header_from(detections.stamp_ns, frame_id))
        element.bbox = BoundingBox3D(center=pose, size=Vector3(x=box[3], y=box[4], z=box[5]))
        result = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=CLASS_NAMES[label], score=score))
        result.pose.pose = pose
        element.results = [result]
        message.detections.append(element)
    return message


def markers_message(shapes: Iterable[Shape], *, stamp_ns: int, frame_id: str, lifetime_s: float) -> MarkerArray:
    """Shapes for a viewer."""
    header = header_from(stamp_ns, frame_id)
    seconds, fraction = divmod(lifetime_s, 1.0)
    lifetime = Duration(sec=int(seconds), nanosec=int(fraction * 1e9))
    return MarkerArray(
        markers=[
            Marker(
                header=header,
                ns=shape.namespace,
                id=shape.number,
                type=_MARKER_TYPES[shape.namespace],
                action=Marker.ADD,
                pose=_pose_from(shape.centre, shape.yaw),
                scale=Vector3(x=shape.size[0], y=shape.size[1], z=shape.size[2]),
                color=ColorRGBA(r=shape.colour[0], g=shape.colour[1], b=shape.colour[2], a=shape.opacity),
                lifetime=lifetime,
                text=shape.text,
            )
            for shape in shapes
        ]
    )


def jpeg_message(content: bytes, *, stamp_ns: int, frame_id: str) -> CompressedImage:
    """A JPEG image."""
    return CompressedImage(header=header_from(stamp_ns, frame_id), format="jpeg", data=content)


def status_message(
    report: SetReport, *, frame_id: str, sets_processed: int, sets_dropped: int, drop_reason: str
) -> PipelineStatus:
    """How a set passed through the node."""
    return PipelineStatus(
        header=header_from(report.stamp_ns, frame_id),
        cameras=list(report.cameras),
        present=list(report.present),
        age_ms=list(report.age_ms),
        spread_ms=report.spread_ms,
        stages=list(report.stage_ms),
        stage_ms=list(report.stage_ms.values()),
        latency_ms=report.latency_ms,
        sets_processed=sets_processed,
        sets_dropped=sets_dropped,
        drop_reason=drop_reason,
    )


def diagnostics_message(items: Iterable[Item], *, now_ns: int, node: str, hardware_id: str) -> DiagnosticArray:
    """A report for /diagnostics."""
    return DiagnosticArray(
        header=header_from(now_ns, ""),
        status=[
            DiagnosticStatus(
                level=bytes([item.level]),
                name=f"{node}: {item.name}",
                message=item.message,
                hardware_id=hardware_id,
                values=[KeyValue(key=key, value=value) for key, value in item.values.items()],
            )
            for item in items
        ],
    )


def _rows(detections: Detections) -> Iterable[tuple[list[float], float, int]]:
    return zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)


def _pose_from(centre: Sequence[float], yaw: float) -> Pose:
    w, x, y, z = quaternion_from_yaw(yaw).tolist()
    return Pose(position=Point(x=centre[0], y=centre[1], z=centre[2]), orientation=Quaternion(x=x, y=y, z=z, w=w))


def _quaternion_of(message: Any) -> np.ndarray:
    return np.array([message.w, message.x, message.y, message.z])

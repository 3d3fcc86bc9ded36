"""Plain data to messages: the only file that fills their fields; `unpack.py` reads them.

Messages hold quaternions x-y-z-w, everything else here w-x-y-z.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from bevdistill_ros.core.geometry import quaternion_from_yaw
from bevdistill_ros.core.nuscenes import CLASS_NAMES, attribute_of
from bevdistill_ros.core.records import Detections
from bevdistill_ros.msg import Detection3D, Detection3DArray, PipelineStatus
from bevdistill_ros.node.markers import Shape
from bevdistill_ros.node.records import Item, SetReport

_MARKER_TYPES = {"boxes": Marker.CUBE, "velocities": Marker.ARROW, "labels": Marker.TEXT_VIEW_FACING}


def time_from(stamp_ns: int) -> Time:
    """A time message."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def header_from(stamp_ns: int, frame_id: str) -> Header:
    """A header message."""
    return Header(stamp=time_from(stamp_ns), frame_id=frame_id)


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

"""What a detector publishes, as messages of rosbags: the same bytes as those of the node.

Messages hold quaternions x-y-z-w, everything else here w-x-y-z.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES, attribute_of
from bevdistill_ros.core.records import Detections
from training.bag import messages

_DETECTION_TYPE = "bevdistill_ros/msg/Detection3D"


def detections_data(detections: Detections, *, frame_id: str, model: str) -> bytes:
    """A bevdistill_ros/Detection3DArray as CDR.

    Args:
        detections: In the frame `frame_id`.
        frame_id: Frame of the vehicle.
        model: Name and version of the bundle.
    """
    types = messages.detector_types().types
    detection, pose_type, point = (
        types[kind] for kind in (_DETECTION_TYPE, "geometry_msgs/msg/Pose", "geometry_msgs/msg/Point")
    )
    quaternion, vector = types["geometry_msgs/msg/Quaternion"], types["geometry_msgs/msg/Vector3"]
    entries = []
    for box, score, label in _rows(detections):
        x, y, z, length, width, height, yaw, vx, vy = box
        turned = quaternion(x=0.0, y=0.0, z=math.sin(yaw / 2), w=math.cos(yaw / 2))
        entries.append(
            detection(
                class_name=CLASS_NAMES[label],
                score=score,
                pose=pose_type(position=point(x=x, y=y, z=z), orientation=turned),
                size=vector(x=length, y=width, z=height),
                velocity=vector(x=vx, y=vy, z=0.0),
                attribute=attribute_of(CLASS_NAMES[label], math.hypot(vx, vy)),
            )
        )
    array = types[messages.DETECTIONS_TYPE](
        header=messages.header(detections.stamp_ns, frame_id), model=model, detections=entries
    )
    return bytes(messages.detector_types().serialize_cdr(array, messages.DETECTIONS_TYPE))


def status_data(
    stamp_ns: int,
    *,
    frame_id: str,
    age_ms: Mapping[str, float],
    stage_ms: Mapping[str, float],
    spread_ms: float,
    latency_ms: float,
    sets_processed: int,
    sets_dropped: int,
    drop_reason: str,
) -> bytes:
    """A bevdistill_ros/PipelineStatus as CDR.

    Args:
        stamp_ns: Of the set [ns].
        frame_id: Frame of the detections.
        age_ms: Age of each camera's image by its name; nan where it is missing.
        stage_ms: By stage; empty for a set that was dropped.
        spread_ms: Newest minus oldest stamp.
        latency_ms: Oldest stamp to publish; nan for a set that was dropped.
        sets_processed: So far.
        sets_dropped: So far.
        drop_reason: Of the last drop; empty before the first.
    """
    ages = np.array(list(age_ms.values()), dtype=np.float32)
    status = messages.detector_types().types[messages.STATUS_TYPE](
        header=messages.header(stamp_ns, frame_id),
        cameras=list(age_ms),
        present=~np.isnan(ages),
        age_ms=ages,
        spread_ms=spread_ms,
        stages=list(stage_ms),
        stage_ms=np.array(list(stage_ms.values()), dtype=np.float32),
        latency_ms=latency_ms,
        sets_processed=sets_processed,
        sets_dropped=sets_dropped,
        drop_reason=drop_reason,
    )
    return bytes(messages.detector_types().serialize_cdr(status, messages.STATUS_TYPE))


def _rows(detections: Detections) -> Any:
    return zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)

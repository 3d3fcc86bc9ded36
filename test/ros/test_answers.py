"""Answers that are written without ROS are those that the node sends."""

import math

import pytest
import torch

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.records import Detections
from training.bag.answers import detections_data, status_data

pytestmark = pytest.mark.ros

STAMP = 1_600_000_000_000_000_123


def test_detections() -> None:
    from bevdistill_ros.msg import Detection3DArray
    from rclpy.serialization import deserialize_message

    from bevdistill_ros.node.convert import detections_message

    generator = torch.Generator().manual_seed(0)
    found = Detections(
        stamp_ns=STAMP,
        boxes=torch.randn(20, 9, generator=generator),
        scores=torch.rand(20, generator=generator),
        labels=torch.arange(20) % len(CLASS_NAMES),
    )
    for detections in (found, Detections.empty(STAMP)):
        data = detections_data(detections, frame_id="base_link", model="tiny 1")
        expected = detections_message(detections, frame_id="base_link", model="tiny 1")
        assert deserialize_message(data, Detection3DArray) == expected


def test_status() -> None:
    from bevdistill_ros.msg import PipelineStatus
    from rclpy.serialization import deserialize_message

    from bevdistill_ros.node.convert import status_message
    from bevdistill_ros.node.records import Motion, SetReport

    stages = {"decode": 5.0, "inference": 20.5}
    report = SetReport(
        stamp_ns=STAMP,
        cameras=("A", "B"),
        present=(True, False),
        age_ms=(30.0, math.nan),
        spread_ms=4.0,
        stage_ms=stages,
        latency_ms=40.0,
        motion=Motion(is_known=True),
    )
    counts = {"sets_processed": 3, "sets_dropped": 1, "drop_reason": "missing B"}
    data = status_data(
        STAMP,
        frame_id="base_link",
        age_ms={"A": 30.0, "B": math.nan},
        stage_ms=stages,
        spread_ms=4.0,
        latency_ms=40.0,
        **counts,  # type: ignore[arg-type]
    )
    expected = status_message(report, frame_id="base_link", **counts)  # type: ignore[arg-type]
    # Not a number equals nothing, so the messages are compared as text.
    assert repr(deserialize_message(data, PipelineStatus)) == repr(expected)

"""What the node publishes about a set."""

import importlib.util
import math
import threading
import time
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import MarkerArray

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.msg import Detection3DArray, PipelineStatus
from bevdistill_ros.node import convert
from bevdistill_ros.node.diagnostics import Monitor, age_ms
from bevdistill_ros.node.markers import Lifetime, shapes_of
from bevdistill_ros.node.overlay import draw_overlay, encode_jpeg
from bevdistill_ros.node.records import DroppedSet, ImageSet, Motion, Outcome, SetReport

DEPTH = 10
OVERLAY_DEPTH = 1  # nobody wants an old picture


class Publishers:
    """Publishers of the node.

    Args:
        node: The node.
        cameras: Camera names.
        base_frame: Frame of the detections.
        model: Name and version of the bundle.
        grid: Extent of the view from above.
    """

    def __init__(
        self, node: LifecycleNode, *, cameras: tuple[str, ...], base_frame: str, model: str, grid: BevGrid
    ) -> None:
        self._node = node
        self._cameras = cameras
        self._frame_id = base_frame
        self._model = model
        self._grid = grid
        self._lifetime = Lifetime()
        self._counting = threading.Lock()
        self._detections = self._create(Detection3DArray, "~/output/detections")
        self._markers = self._create(MarkerArray, "~/output/markers")
        self._overlay = self._create(CompressedImage, "~/output/overlay/compressed", depth=OVERLAY_DEPTH)
        self._status = self._create(PipelineStatus, "~/debug/pipeline_status")
        self._publishers = [self._detections, self._markers, self._overlay, self._status]
        self._vision: Any = None
        if importlib.util.find_spec("vision_msgs") is not None:
            from vision_msgs.msg import Detection3DArray as VisionArray

            self._vision = self._create(VisionArray, "~/output/vision_detections")
            self._publishers.append(self._vision)

    def close(self) -> None:
        """Stop publishing."""
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def publish(self, images: ImageSet, outcome: Outcome, monitor: Monitor) -> None:
        """Publish a set's detections, and what there is about it.

        Args:
            images: The set.
            outcome: What came of it.
            monitor: Counts the set.
        """
        started = time.perf_counter()
        detections = outcome.detections
        stamp = detections.stamp_ns
        self._detections.publish(convert.detections_message(detections, frame_id=self._frame_id, model=self._model))
        if self._vision is not None:
            self._vision.publish(convert.vision_detections_message(detections, frame_id=self._frame_id))
        lifetime = self._lifetime.after(stamp)
        if self._markers.get_subscription_count():
            shapes = shapes_of(detections)
            self._markers.publish(
                convert.markers_message(shapes, stamp_ns=stamp, frame_id=self._frame_id, lifetime_s=lifetime)
            )
        stages = {**outcome.stage_ms, "publish": (time.perf_counter() - started) * 1e3}
        report = self._report(images, outcome, stages)
        with self._counting:
            monitor.processed(report, self._now_ns())
            self._publish_status(report, monitor)
        if self._overlay.get_subscription_count():
            picture = encode_jpeg(draw_overlay(outcome.frame, detections, self._grid))
            self._overlay.publish(convert.jpeg_message(picture, stamp_ns=stamp, frame_id=self._frame_id))

    def publish_dropped(self, dropped: DroppedSet, monitor: Monitor) -> None:
        """Report that a set is not used; safe to call from any thread.

        Args:
            dropped: The set.
            monitor: Counts the set.
        """
        stamps = [stamp for stamp in dropped.stamps_ns if stamp is not None]
        now = self._now_ns()
        report = SetReport(
            stamp_ns=dropped.stamp_ns,
            cameras=self._cameras,
            present=tuple(stamp is not None for stamp in dropped.stamps_ns),
            age_ms=tuple(math.nan if stamp is None else age_ms(stamp, now) for stamp in dropped.stamps_ns),
            spread_ms=(max(stamps) - min(stamps)) / 1e6 if stamps else 0.0,
            stage_ms={},
            latency_ms=math.nan,
            motion=Motion(is_known=False),
        )
        # Each status counts one set more than the one before, so counting and publishing go together.
        with self._counting:
            monitor.drop(dropped.reason, now)
            self._publish_status(report, monitor)

    def _report(self, images: ImageSet, outcome: Outcome, stages: dict[str, float]) -> SetReport:
        now = self._now_ns()
        present = tuple(outcome.frame.valid.tolist())
        ages = [math.nan if stamp is None else age_ms(stamp, now) for stamp in images.stamps_ns]
        stamps = [stamp for stamp in images.stamps_ns if stamp is not None]
        return SetReport(
            stamp_ns=images.stamp_ns,
            cameras=self._cameras,
            present=present,
            age_ms=tuple(ages),
            spread_ms=images.spread_ms,
            stage_ms=stages,
            latency_ms=age_ms(min(stamps), now),
            motion=outcome.motion,
        )

    def _publish_status(self, report: SetReport, monitor: Monitor) -> None:
        self._status.publish(
            convert.status_message(
                report,
                frame_id=self._frame_id,
                sets_processed=monitor.sets_processed,
                sets_dropped=monitor.sets_dropped,
                drop_reason=monitor.last_drop_reason,
            )
        )

    def _create(self, kind: Any, topic: str, depth: int = DEPTH) -> Any:
        return self._node.create_lifecycle_publisher(
            kind,
            topic,
            QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.RELIABLE),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

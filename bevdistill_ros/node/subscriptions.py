"""What the node listens to: images put together to sets, calibrations and odometry."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, QoSReliabilityPolicy, qos_check_compatible
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node import convert
from bevdistill_ros.node.diagnostics import age_ms
from bevdistill_ros.node.polled import PolledSubscription
from bevdistill_ros.node.records import DroppedSet, ImageSet
from bevdistill_ros.node.rig.calibration import CalibrationStore
from bevdistill_ros.node.rig.ego_motion import OdometryBuffer
from bevdistill_ros.node.sync.anchor import AnchorSynchronizer
from bevdistill_ros.node.sync.filters import Subscriber, approximate_time

IMAGE_DEPTH = 10
INFO_DEPTH = 1  # of a camera's calibrations only the newest counts
ODOMETRY_DEPTH = 200  # a queue that is full loses the pose that an image waits for
EXPIRY_PERIOD_S = 0.02
NUM_ARRIVALS = 64  # arrivals of a camera's images that are remembered


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who is told what."""

    on_set: Callable[[ImageSet], None]
    on_image: Callable[[str], None]  # camera
    on_drop: Callable[[DroppedSet], None]
    on_clock_jump: Callable[[int], None]  # the new stamp [ns]
    on_fault: Callable[[str, str], None]  # subject, what is wrong


class Inputs:
    """Subscriptions of the node; the callbacks only store and hand over.

    Args:
        node: The node.
        parameters: Its parameters.
        calibrations: Takes what camera_info tells; None where intrinsics come from a file.
        odometry: Takes odometry; None where ego motion has another source.
        listeners: Who is told what.
    """

    def __init__(
        self,
        node: Node,
        parameters: DetectorParameters,
        *,
        calibrations: CalibrationStore | None,
        odometry: OdometryBuffer | None,
        listeners: Listeners,
    ) -> None:
        self._node = node
        self._parameters = parameters
        self._calibrations = calibrations
        self._odometry = odometry
        self._listeners = listeners
        self._arrivals: dict[tuple[str, int], tuple[float, float]] = {}
        self._filters: list[Any] = []
        self._subscriptions: list[Any] = []
        self._timer: Any = None
        try:
            self._open()
        except Exception:
            self.close()
            raise

    def _open(self) -> None:
        cameras = self._parameters.cameras
        for name in cameras:
            self._filters.append(self._image_filter(name))
            self._subscriptions.append(self._filters[-1].sub)
        self._synchronizer = self._synchronize()
        self._synchronizer.registerCallback(self._on_messages)
        if self._calibrations is not None:
            infos = [self._camera_info(name) for name in cameras]

            def take_infos() -> None:
                for info in infos:
                    info.take()

            self._calibrations.refresh = take_infos
        if self._odometry is not None:
            odometry = self._polled(Odometry, "odometry", self._on_odometry, ODOMETRY_DEPTH)
            self._odometry.refresh = odometry.take
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(EXPIRY_PERIOD_S, self._expire, clock=steady)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for store in (self._calibrations, self._odometry):
            if store is not None:
                store.refresh = lambda: None
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    def sources(self) -> dict[str, str]:
        """Where each camera's images should come from, in words."""
        found = {}
        for camera, source in zip(self._parameters.cameras, self._filters, strict=True):
            publishers = self._node.get_publishers_info_by_topic(source.sub.topic_name)
            count = f"{len(publishers) or 'no'} publisher{'' if len(publishers) == 1 else 's'}"
            misfits = {_misfit(publisher, source.sub) for publisher in publishers} - {""}
            found[camera] = ", ".join([source.sub.topic_name, count, *sorted(misfits)])
        return found

    def _image_filter(self, camera: str) -> Any:
        compressed = self._parameters.transport == "compressed"
        kind, suffix = (CompressedImage, "/compressed") if compressed else (Image, "")
        source = Subscriber(
            self._node,
            kind,
            f"~/input/{camera}/image{suffix}",
            qos_profile=_sensor_qos(IMAGE_DEPTH),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=_no_events(),
        )
        # Registered before the synchroniser's own, so that the arrival is known when it emits.
        source.registerCallback(self._on_image, camera)
        return source

    def _synchronize(self) -> Any:
        sync = self._parameters.sync
        if sync.policy == "approximate_time":
            return approximate_time(
                self._filters,
                queue_size=IMAGE_DEPTH,
                slop=sync.max_spread_ms / 1e3,
                stamp_of=convert.stamp_of,
                on_clock_jump=self._listeners.on_clock_jump,
            )
        return AnchorSynchronizer(
            self._filters,
            names=self._parameters.cameras,
            reference=self._parameters.reference_camera,
            max_spread_ns=round(sync.max_spread_ms * 1e6),
            max_age_ns=round(sync.max_age_ms * 1e6),
            camera_timeout_ns=round(self._parameters.diagnostics.camera_timeout_s * 1e9),
            missing_camera=self._parameters.missing_camera,
            stamp_of=convert.stamp_of,
            now_ns=self._now_ns,
            on_drop=self._listeners.on_drop,
            on_ignored=self._listeners.on_fault,
            on_clock_jump=self._listeners.on_clock_jump,
            queue_size=IMAGE_DEPTH,
        )

    def _camera_info(self, camera: str) -> PolledSubscription:
        return self._polled(
            CameraInfo, f"{camera}/camera_info", lambda message: self._on_camera_info(camera, message), INFO_DEPTH
        )

    def _polled(self, kind: Any, name: str, callback: Callable[[Any], None], depth: int) -> PolledSubscription:
        made = PolledSubscription(self._node, kind, f"~/input/{name}", callback, qos_profile=_sensor_qos(depth))
        self._subscriptions.append(made.sub)
        return made

    def _on_image(self, message: Any, camera: str) -> None:
        self._listeners.on_image(camera)
        if self._timer.is_canceled():
            self._timer.reset()
        stamp = convert.stamp_of(message)
        self._arrivals[camera, stamp] = (time.monotonic(), age_ms(stamp, self._now_ns()))
        while len(self._arrivals) > NUM_ARRIVALS * len(self._filters):
            del self._arrivals[next(iter(self._arrivals))]

    def _on_messages(self, *messages: Any) -> None:
        stamps = tuple(None if message is None else convert.stamp_of(message) for message in messages)
        anchor = getattr(self._synchronizer, "anchor", self._parameters.reference_camera)
        stamp = stamps[self._parameters.cameras.index(anchor)]
        assert stamp is not None, "a set has no image that anchors it"
        received, transport_age = self._arrivals.get((anchor, stamp), (time.monotonic(), math.nan))
        images = ImageSet(
            stamp_ns=stamp, messages=messages, stamps_ns=stamps, received=received, transport_age_ms=transport_age
        )
        if images.spread_ms > self._parameters.sync.max_spread_ms:
            reason = f"spread of {images.spread_ms:.0f} ms above sync.max_spread_ms"
            self._listeners.on_drop(DroppedSet(reason=reason, stamp_ns=stamp, stamps_ns=stamps))
            return
        self._listeners.on_set(images)

    def _on_camera_info(self, camera: str, message: Any) -> None:
        assert self._calibrations is not None
        try:
            calibration = convert.calibration_of(message, rectified=self._parameters.images_rectified)
        except ValueError as error:
            self._calibrations.refuse(camera, str(error))
            self._listeners.on_fault(camera, str(error))
            return
        self._calibrations.put(camera, calibration)

    def _on_odometry(self, message: Any) -> None:
        assert self._odometry is not None
        try:
            self._odometry.add(*convert.odometry_of(message, base_frame=self._parameters.base_frame))
        except ValueError as error:
            self._listeners.on_fault("odometry", str(error))

    def _expire(self) -> None:
        """Let no set wait for ever; without a set that waits the timer rests, as each of its calls wakes the node."""
        if isinstance(self._synchronizer, AnchorSynchronizer):
            self._synchronizer.expire()
            if self._synchronizer.is_waiting:
                return
        self._timer.cancel()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _sensor_qos(depth: int) -> QoSProfile:
    # Best effort matches both kinds of publisher; reliable would never match a best-effort camera.
    return QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def _no_events() -> SubscriptionEventCallbacks:
    # Each event of each subscription is waited for anew at every message, which would double what waiting costs;
    # `sources` tells of the misfits that these events are for.
    return SubscriptionEventCallbacks(use_default_callbacks=False)


def _misfit(publisher: Any, subscription: Any) -> str:
    """Why a publisher does not reach a subscription, in words; empty where it does."""
    kind = f"{subscription.msg_type.__module__.partition('.')[0]}/msg/{subscription.msg_type.__name__}"
    if publisher.topic_type != kind:
        return f"which sends {publisher.topic_type} instead of {kind}"
    compatibility, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
    return f"whose QoS does not fit: {reason}" if compatibility == QoSCompatibility.ERROR else ""

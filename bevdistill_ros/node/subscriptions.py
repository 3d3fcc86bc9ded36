"""The camera topics, and the sets of images that they give."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from bevdistill_ros.interface import drops
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.interface.topics import own_image_topic
from bevdistill_ros.node.convert import frame_of, stamp_of
from bevdistill_ros.node.diagnostics import age_ms
from bevdistill_ros.node.quality import input_quality, misfit
from bevdistill_ros.node.records import DroppedSet, ImageSet
from bevdistill_ros.node.sync.anchor import AnchorSynchronizer
from bevdistill_ros.node.sync.clocks import ClockWatch
from bevdistill_ros.node.sync.filters import Subscriber, approximate_time

IMAGE_DEPTH = 10
EXPIRY_PERIOD_S = 0.02
NUM_ARRIVALS = 64  # arrivals of a camera's images that are remembered


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who gets what."""

    on_set: Callable[[ImageSet], None]
    on_image: Callable[[str], None]  # camera
    on_drop: Callable[[DroppedSet], None]
    on_clock_jump: Callable[[int], None]  # the new stamp [ns]
    on_fault: Callable[[str, str], None]  # subject, what is wrong


class Subscriptions:
    """Subscriptions to the images, which are put together to sets; the callbacks only store and hand over.

    Args:
        node: The node.
        parameters: Its parameters.
        listeners: Who gets what.
    """

    def __init__(self, node: Node, parameters: DetectorParameters, listeners: Listeners) -> None:
        self._node = node
        self._parameters = parameters
        self._listeners = listeners
        self._clocks = ClockWatch()
        self._arrivals: dict[tuple[str, int], tuple[float, float]] = {}
        self._filters: list[Any] = []
        self._timer: Any = None
        try:
            self._open()
        except Exception:
            self.close()
            raise

    def _open(self) -> None:
        for name in self._parameters.cameras:
            self._filters.append(self._image_filter(name))
        self._synchronizer = self._synchronize()
        self._synchronizer.registerCallback(self._on_messages)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self._node.create_timer(EXPIRY_PERIOD_S, self._expire, clock=steady)

    def close(self) -> None:
        """Stop listening."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
        for source in self._filters:
            self._node.destroy_subscription(source.sub)

    def described(self) -> dict[str, str]:
        """Where each camera's images should come from, in words."""
        found = {}
        for camera, source in zip(self._parameters.cameras, self._filters, strict=True):
            publishers = self._node.get_publishers_info_by_topic(source.sub.topic_name)
            count = f"{len(publishers) or 'no'} publisher{'' if len(publishers) == 1 else 's'}"
            misfits = {misfit(publisher, source.sub) for publisher in publishers} - {""}
            found[camera] = ", ".join([source.sub.topic_name, count, *sorted(misfits)])
        return found

    def _image_filter(self, camera: str) -> Any:
        kind = CompressedImage if self._parameters.transport == "compressed" else Image
        source = Subscriber(
            self._node,
            kind,
            own_image_topic(camera, self._parameters.transport),
            qos_profile=input_quality(IMAGE_DEPTH),
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
                stamp_of=stamp_of,
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
            stamp_of=stamp_of,
            now_ns=self._now_ns,
            on_drop=self._listeners.on_drop,
            on_ignored=self._listeners.on_fault,
            on_clock_jump=self._listeners.on_clock_jump,
            queue_size=IMAGE_DEPTH,
        )

    def _on_image(self, message: Any, camera: str) -> None:
        self._listeners.on_image(camera)
        if self._timer.is_canceled():
            self._timer.reset()
        stamp = stamp_of(message)
        arrived = time.monotonic()
        self._arrivals[camera, stamp] = (arrived, age_ms(stamp, self._now_ns()))
        if fault := self._clocks.check(camera, stamp, arrived):
            self._listeners.on_fault(camera, fault)
        while len(self._arrivals) > NUM_ARRIVALS * len(self._filters):
            del self._arrivals[next(iter(self._arrivals))]

    def _on_messages(self, *messages: Any) -> None:
        stamps = tuple(None if message is None else stamp_of(message) for message in messages)
        anchor = getattr(self._synchronizer, "anchor", self._parameters.reference_camera)
        stamp = stamps[self._parameters.cameras.index(anchor)]
        assert stamp is not None, "a set has no image that anchors it"
        received, transport_age = self._arrivals.get((anchor, stamp), (time.monotonic(), math.nan))
        images = ImageSet(
            stamp_ns=stamp,
            messages=messages,
            stamps_ns=stamps,
            frame_ids=tuple("" if message is None else frame_of(message) for message in messages),
            received=received,
            transport_age_ms=transport_age,
        )
        if images.spread_ms > self._parameters.sync.max_spread_ms:
            self._listeners.on_drop(images.dropped(drops.spread(images.spread_ms)))
            return
        self._listeners.on_set(images)

    def _expire(self) -> None:
        """Let no set wait for ever; while none waits the timer rests, as each of its calls wakes the node."""
        if isinstance(self._synchronizer, AnchorSynchronizer):
            self._synchronizer.expire()
            if self._synchronizer.is_waiting:
                return
        self._timer.cancel()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _no_events() -> SubscriptionEventCallbacks:
    # Each event of each subscription would be waited for again at every message, which doubles what waiting costs;
    # `described` reports the misfits that these events are for.
    return SubscriptionEventCallbacks(use_default_callbacks=False)

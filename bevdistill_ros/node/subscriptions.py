"""The camera topics, whose images become sets."""

from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.interface.topics import own_image_topic
from bevdistill_ros.node.quality import input_quality, misfit
from bevdistill_ros.node.sets import QUEUE_SIZE, Listeners, SetMaker
from bevdistill_ros.node.sync.filters import Subscriber

EXPIRY_PERIOD_S = 0.02


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
        self._filters: list[Any] = []
        self._timer: Any = None
        try:
            self._open(listeners)
        except Exception:
            self.close()
            raise

    def _open(self, listeners: Listeners) -> None:
        for name in self._parameters.cameras:
            self._filters.append(self._image_filter(name))
        self._sets = SetMaker(self._filters, self._parameters, listeners, now_ns=self._now_ns)
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
            qos_profile=input_quality(QUEUE_SIZE),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            event_callbacks=_no_events(),
        )
        source.registerCallback(self._wake)
        return source

    def _wake(self, message: Any) -> None:
        """Something may wait from now on."""
        if self._timer.is_canceled():
            self._timer.reset()

    def _expire(self) -> None:
        """Let no set wait for ever; while none waits the timer rests, as each of its calls wakes the node."""
        self._sets.expire()
        if not self._sets.is_waiting:
            self._timer.cancel()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def _no_events() -> SubscriptionEventCallbacks:
    # Each event of each subscription would be waited for again at every message, which doubles what waiting costs;
    # `described` reports the misfits that these events are for.
    return SubscriptionEventCallbacks(use_default_callbacks=False)

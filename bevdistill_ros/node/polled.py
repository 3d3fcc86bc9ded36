"""A subscription that wakes nobody.

An executor of rclpy takes half a millisecond to wake up for a message, which is more than most messages are worth. Of
odometry and calibrations only what there is when a set of images comes counts, so they wait in the middleware's queue
until they are asked for.
"""

import threading
from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions


class _Asleep(CallbackGroup):
    """What belongs to it is never executed, and so never waited for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class PolledSubscription:
    """Hands over messages when it is asked to.

    Args:
        node: Its node.
        kind: Message type.
        topic: Topic.
        callback: Called with each message by `take`.
        qos_profile: Its depth is how many messages may wait; the oldest go first. Can be overridden by parameters.
    """

    def __init__(
        self, node: Node, kind: Any, topic: str, callback: Callable[[Any], None], *, qos_profile: QoSProfile
    ) -> None:
        self._callback = callback
        self._lock = threading.Lock()
        self.sub = node.create_subscription(
            kind,
            topic,
            callback,
            qos_profile,
            callback_group=_Asleep(),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def take(self) -> None:
        """Call back with all messages that have come since the last time; from any thread."""
        with self._lock:
            try:
                with self.sub.handle:
                    while (taken := self.sub.handle.take_message(self.sub.msg_type, self.sub.raw)) is not None:
                        self._callback(taken[0])
            except InvalidHandle:  # it was destroyed meanwhile
                return

"""A subscription without callback, whose messages are taken on demand.

An executor of rclpy takes half a millisecond to wake up for a message, which is more than most messages are worth. Of
odometry and calibrations only what is there when a set of images comes matters, so they wait in the middleware's queue
until they are taken.
"""

from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

OVERRIDABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)


class _Asleep(CallbackGroup):
    """What belongs to it is never executed, and so never waited for."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass


class PolledSubscription:
    """Queues messages until they are taken.

    Args:
        node: Its node.
        kind: Message type.
        topic: Topic.
        qos_profile: Its depth is how many messages may wait; the oldest go first. Can be overridden by parameters.
        entity_id: Distinguishes it from another subscription of the topic in the names of these parameters.
    """

    def __init__(
        self, node: Node, kind: Any, topic: str, *, qos_profile: QoSProfile, entity_id: str | None = None
    ) -> None:
        self.sub = node.create_subscription(
            kind,
            topic,
            lambda message: None,
            qos_profile,
            callback_group=_Asleep(),
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions(OVERRIDABLE, entity_id=entity_id),
        )

    def take(self) -> list[Any]:
        """All messages that have come since the last call, oldest first; from any thread, but one at a time."""
        messages = []
        try:
            with self.sub.handle:
                while (taken := self.sub.handle.take_message(self.sub.msg_type, self.sub.raw)) is not None:
                    messages.append(taken[0])
        except InvalidHandle:  # it was destroyed meanwhile
            pass
        return messages

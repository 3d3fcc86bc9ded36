"""Quality of service of the node's inputs, and whether a publisher reaches a subscription."""

from typing import Any

from rclpy.qos import QoSCompatibility, QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy, qos_check_compatible


def input_quality(depth: int) -> QoSProfile:
    """Quality of the inputs: best effort matches both kinds of publisher, reliable no best-effort camera."""
    return QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def latched_quality() -> QoSProfile:
    """Quality that receives the last message of a latched topic, though it was sent before; and no other topic."""
    return QoSProfile(
        depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
    )


def is_latched(publisher: Any) -> bool:
    """Whether a publisher (TopicEndpointInfo) sends its last message to those who come later."""
    return bool(publisher.qos_profile.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL)


def mismatch(publisher: QoSProfile, subscription: QoSProfile) -> str:
    """Why a subscription gets nothing from a publisher; empty where it does."""
    compatibility, reason = qos_check_compatible(publisher, subscription)
    return str(reason) if compatibility == QoSCompatibility.ERROR else ""


def misfit(publisher: Any, subscription: Any) -> str:
    """Why a publisher does not reach a subscription, by type or quality, in words; empty where it does."""
    kind = f"{subscription.msg_type.__module__.partition('.')[0]}/msg/{subscription.msg_type.__name__}"
    if publisher.topic_type != kind:
        return f"which sends {publisher.topic_type} instead of {kind}"
    reason = mismatch(publisher.qos_profile, subscription.qos_profile)
    return f"whose QoS does not fit: {reason}" if reason else ""

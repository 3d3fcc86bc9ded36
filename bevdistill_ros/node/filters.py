"""The one place that imports `message_filters`; stand-ins take its place where it is not installed."""

from typing import Any

try:
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter, Subscriber

    HAS_MESSAGE_FILTERS = True
except ModuleNotFoundError:
    from bevdistill_ros.node.filter_stand_ins import SimpleFilter, Subscriber

    HAS_MESSAGE_FILTERS = False

__all__ = ["HAS_MESSAGE_FILTERS", "SimpleFilter", "Subscriber", "approximate_time", "require_message_filters"]


def approximate_time(filters: list[Any], *, queue_size: int, slop: float) -> Any:
    """The stock ApproximateTimeSynchronizer over these filters.

    Args:
        filters: What it listens to.
        queue_size: Messages kept a filter.
        slop: Largest difference of stamps in a set [s].

    Raises:
        ValueError: `message_filters` is not installed.
    """
    require_message_filters()
    return ApproximateTimeSynchronizer(filters, queue_size=queue_size, slop=slop)


def require_message_filters() -> None:
    """Raise ValueError where `message_filters` is not installed, and say what to do."""
    if not HAS_MESSAGE_FILTERS:
        raise ValueError(
            "sync.policy approximate_time needs the ROS package message_filters, which is not installed; "
            "install it, or set sync.policy to anchor"
        )

"""The one place that imports `message_filters`; stand-ins take its place where it is not installed."""

from collections.abc import Callable
from typing import Any

from bevdistill_ros.node.records import CLOCK_JUMP_NS

try:
    from message_filters import ApproximateTimeSynchronizer, SimpleFilter, Subscriber

    HAS_MESSAGE_FILTERS = True
except ModuleNotFoundError:
    from bevdistill_ros.node.sync.filter_stand_ins import SimpleFilter, Subscriber

    HAS_MESSAGE_FILTERS = False

__all__ = [
    "HAS_MESSAGE_FILTERS",
    "SimpleFilter",
    "Subscriber",
    "approximate_time",
    "require_message_filters",
]


def approximate_time(
    filters: list[Any],
    *,
    queue_size: int,
    slop: float,
    stamp_of: Callable[[Any], int] = lambda message: 0,
    on_clock_jump: Callable[[int], None] = lambda stamp_ns: None,
) -> Any:
    """The stock ApproximateTimeSynchronizer over these filters, which forgets what it holds when stamps go back.

    By itself it keeps the newest stamps, and would match nothing any more until the old time is reached again.

    Args:
        filters: What it listens to.
        queue_size: Messages kept a filter.
        slop: Largest difference of stamps in a set [s].
        stamp_of: The stamp of a message [ns].
        on_clock_jump: Called with the new stamp after stamps went back.

    Raises:
        ValueError: `message_filters` is not installed.
    """
    require_message_filters()
    newest: dict[int, int] = {}

    def check(message: Any, index: int) -> None:
        stamp = stamp_of(message)
        if stamp < newest.get(index, stamp) - CLOCK_JUMP_NS:
            newest.clear()
            for queue in synchronizer.queues:
                queue.clear()
            on_clock_jump(stamp)
        newest[index] = max(stamp, newest.get(index, stamp))

    # Registered before the synchroniser's own, so that it sees each message first.
    for index, source in enumerate(filters):
        source.registerCallback(check, index)
    synchronizer = ApproximateTimeSynchronizer(filters, queue_size=queue_size, slop=slop)
    return synchronizer


def require_message_filters() -> None:
    """Raise ValueError where `message_filters` is not installed, and say what to do."""
    if not HAS_MESSAGE_FILTERS:
        raise ValueError(
            "sync.policy approximate_time needs the ROS package message_filters, which is not installed; "
            "install it, or set sync.policy to anchor"
        )

"""The stock ApproximateTimeSynchronizer, or where `message_filters` is not installed one that does the same work.

As the stock one in Python, each message that comes is matched with every combination of messages of the other topics
within the slop, nearest first, and the first whose stamps all lie within the slop is taken.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from bevdistill_ros.node.sync.filters import HAS_MESSAGE_FILTERS, approximate_time
from bevdistill_ros.node.unpack import stamp_of


class ApproximateTime:
    """Matches messages of several topics.

    Args:
        num_topics: How many.
        queue_size: Messages kept a topic.
        slop_ns: Largest difference of the stamps of a set [ns].
        callback: Called with one message a topic.
    """

    def __init__(self, num_topics: int, queue_size: int, slop_ns: int, callback: Callable[..., None]) -> None:
        self._queues: list[dict[int, Any]] = [{} for _ in range(num_topics)]
        self._queue_size = queue_size
        self._slop = slop_ns
        self._callback = callback

    def add(self, topic: int, message: Any) -> None:
        """A message of a topic, by its place."""
        stamp = stamp_of(message)
        queue = self._queues[topic]
        queue[stamp] = message
        while len(queue) > self._queue_size:
            del queue[min(queue)]
        candidates = [
            [stamp] if place == topic else self._near(other, stamp) for place, other in enumerate(self._queues)
        ]
        for stamps in itertools.product(*candidates):
            if max(stamps) - min(stamps) < self._slop:
                self._callback(*(queue.pop(own) for queue, own in zip(self._queues, stamps, strict=True)))
                return

    def _near(self, queue: dict[int, Any], stamp: int) -> list[int]:
        near = [other for other in queue if abs(other - stamp) <= self._slop]
        return sorted(near, key=lambda other: abs(other - stamp))


def synchronize(filters: Sequence[Any], *, queue_size: int, slop_s: float, callback: Callable[..., None]) -> Any:
    """Call back with sets of messages of these filters; what is returned must be kept."""
    if HAS_MESSAGE_FILTERS:
        synchronizer = approximate_time(list(filters), queue_size=queue_size, slop=slop_s)
        synchronizer.registerCallback(callback)
        return synchronizer
    matcher = ApproximateTime(len(filters), queue_size, round(slop_s * 1e9), callback)
    for place, source in enumerate(filters):
        source.registerCallback(lambda message, place=place: matcher.add(place, message))
    return matcher

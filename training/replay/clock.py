"""The time that /clock shows while a bag is played.

A recorder stamps messages with the time of their receipt, which is later than `header.stamp`, and of another clock
where the headers hold simulated time. A node compares /clock with headers, so /clock follows them: it is the newest
stamp of what was played so far.
"""

from training.bag.read_bag import BagMessage

OTHER_CLOCK_NS = 1_000_000_000  # stamps further from the reference's are of another clock, or of a driver that has none


class HeaderClock:
    """Newest header stamp of a stream of messages, by the clock of the reference camera.

    Args:
        first: The first message of the reference topic; None lets any stamp count.
        reference_topic: Its topic.
    """

    def __init__(self, first: BagMessage | None, reference_topic: str) -> None:
        self._reference_topic = reference_topic
        self._offset_ns = None if first is None or first.stamp_ns <= 0 else first.stamp_ns - first.received_ns
        self._now_ns: int | None = None

    def after(self, message: BagMessage) -> int:
        """The time [ns] once this message is played."""
        offset_ns = message.stamp_ns - message.received_ns
        is_reference = message.topic == self._reference_topic and message.stamp_ns > 0
        if is_reference:
            self._offset_ns = offset_ns
        now_ns = self._now_ns
        if now_ns is None:
            now_ns = message.received_ns + (offset_ns if self._offset_ns is None else self._offset_ns)
        if is_reference and message.stamp_ns < now_ns - OTHER_CLOCK_NS:
            now_ns = message.stamp_ns  # the recording begins again
        elif self._offset_ns is None or abs(offset_ns - self._offset_ns) <= OTHER_CLOCK_NS:
            now_ns = max(now_ns, message.stamp_ns)
        self._now_ns = now_ns
        return now_ns

"""Recent messages of one camera, and the rhythm that they come in."""

from bisect import bisect_left
from collections import deque
from statistics import median
from typing import Any

FIRST_GAP_NS = 50_000_000  # taken for the gap of a stream that has shown none yet: no camera of a ring is much faster
NUM_GAPS = 8  # recent gaps that the period of a stream is taken from
MIN_GAPS = 3  # fewer show no rhythm
GAP_MARGIN = 0.9  # part of the shortest recent gap that the next one is trusted to have


class Stream:
    """Recent messages of one camera by rising stamp.

    Args:
        capacity: Messages kept; the oldest go first.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: list[tuple[int, Any]] = []
        self._gaps: deque[int] = deque(maxlen=NUM_GAPS)
        self.newest: int | None = None  # stamp [ns]

    def has(self, stamp: int) -> bool:
        """Whether a message of this stamp is there, or was the newest."""
        return stamp == self.newest or self.nearest(stamp, 0) is not None

    def add(self, stamp: int, message: Any) -> None:
        """Store a message."""
        place = bisect_left(self._entries, stamp, key=_stamp_of_entry)
        if self.newest is not None and stamp > self.newest:
            self._gaps.append(stamp - self.newest)
        self.newest = stamp if self.newest is None else max(self.newest, stamp)
        self._entries.insert(place, (stamp, message))
        del self._entries[: -self._capacity]

    def nearest(self, stamp: int, within: int) -> tuple[int, Any] | None:
        """Stamp and message nearest to a stamp, at most `within` away; of two equally near the earlier one."""
        place = bisect_left(self._entries, stamp, key=_stamp_of_entry)
        around = self._entries[max(place - 1, 0) : place + 1]
        best = min(around, key=lambda entry: abs(entry[0] - stamp), default=None)
        return best if best is not None and abs(best[0] - stamp) <= within else None

    def is_settled(self, stamp: int, within: int) -> bool:
        """Whether no message that is still to come can be nearer to a stamp, given that they come in order."""
        if self.newest is None:
            return False
        best = self.nearest(stamp, within)
        if best is None:
            return self.newest > stamp + within
        lead = stamp - best[0]
        if lead <= 0 or self.newest > best[0]:
            return True
        return 2 * lead <= GAP_MARGIN * min(self._gaps, default=FIRST_GAP_NS)

    def period(self) -> float | None:
        """Usual time between two messages [ns]; None where there is no rhythm yet."""
        return median(self._gaps) if len(self._gaps) >= MIN_GAPS else None

    def forget_before(self, stamp: int) -> None:
        """Drop messages older than a stamp."""
        del self._entries[: bisect_left(self._entries, stamp, key=_stamp_of_entry)]


def _stamp_of_entry(entry: tuple[int, Any]) -> int:
    return entry[0]

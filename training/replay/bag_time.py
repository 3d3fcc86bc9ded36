"""A bag in place of time: what a live node waits for, is read."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bevdistill_ros.node.sets import SetMaker
from training.bag.messages import NANOSECONDS
from training.bag.read_bag import BagMessage
from training.replay.clock import HeaderClock

TICK_NS = 20_000_000  # as often as the node looks whether a set has waited for too long


@dataclass(frozen=True, kw_only=True)
class _Entry:
    message: BagMessage
    clock_ns: int  # what /clock would show


class BagTime:
    """Goes through a bag in the order of receipt; time is that of the message read last.

    Args:
        messages: Of the bag, as they would be played.
        clock: What /clock would show.
        hear: Takes calibrations and poses, also ahead of images while something waits for them; False for an image.
    """

    def __init__(self, messages: Iterator[BagMessage], clock: HeaderClock, hear: Callable[[BagMessage], bool]) -> None:
        self._messages = messages
        self._clock = clock
        self._hear = hear
        self._ahead: deque[_Entry] = deque()  # what was read already
        self._received_ns = 0
        self.clock_ns = 0  # what /clock would show now

    def images(self, sets: SetMaker) -> Iterator[BagMessage]:
        """Images in turn; whatever comes before them has been heard, and sets that waited for too long given up."""
        while (entry := self._ahead.popleft() if self._ahead else self._read()) is not None:
            self._tick_until(entry.clock_ns, sets)
            self._received_ns, self.clock_ns = entry.message.received_ns, entry.clock_ns
            if not self._hear(entry.message):
                yield entry.message

    def run_on(self, seconds: float, sets: SetMaker) -> None:
        """Let time pass after the last message [s], and two more looks at what waits."""
        self._tick_until(self.clock_ns + round(seconds * NANOSECONDS) + 2 * TICK_NS, sets)

    def now_s(self) -> float:
        """When the message at hand was received [s]."""
        return self._received_ns / NANOSECONDS

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Read on until a condition holds, past images, which come later; returns whether it does within the time."""
        deadline_ns = self._received_ns + round(timeout_s * NANOSECONDS)
        waiting = deque(self._ahead)
        self._ahead.clear()
        held = condition()
        while not held and (entry := waiting.popleft() if waiting else self._read()) is not None:
            if entry.message.received_ns > deadline_ns:
                waiting.appendleft(entry)
                break
            self._received_ns = entry.message.received_ns
            if self._hear(entry.message):
                held = condition()
            else:
                self._ahead.append(entry)
        self._ahead.extend(waiting)
        return held

    def _read(self) -> _Entry | None:
        message = next(self._messages, None)
        return None if message is None else _Entry(message=message, clock_ns=self._clock.after(message))

    def _tick_until(self, clock_ns: int, sets: SetMaker) -> None:
        """Let time pass in steps as long as a set waits."""
        while sets.is_waiting and self.clock_ns < clock_ns:
            step_ns = min(TICK_NS, clock_ns - self.clock_ns)
            self.clock_ns += step_ns
            self._received_ns += step_ns
            sets.expire()

"""The pace at which a node is fed set by set."""

import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from training.bag.read_bag import BagMessage

_GIVE_UP_NS = 50_000_000  # that a node needs to give a set up, beyond its longest wait
_NUM_STAMPS = 16  # of each camera's newest images


class Answers(Protocol):
    """What the node has said."""

    def expect(self, stamp_ns: int) -> None:
        """A set goes out; forget what was said of an earlier one with its stamp."""

    def is_settled(self, stamp_ns: int) -> bool:
        """Whether the node has answered a set or given it up."""


@dataclass(kw_only=True)
class _Pending:
    stamp_ns: int
    clock_ns: int | None = None  # what /clock showed when its reference image was out
    awaited_since_s: float | None = None


class StepGate:
    """Holds back the next image of the reference camera while the node has a set to work on.

    That is a set all of whose images are out, or whose missing ones the node has stopped waiting for. For others time
    goes on, since an image may come later than those of the next set.

    Args:
        reference_topic: Topic of the camera whose images anchor sets.
        image_topics: Topics of all cameras.
        answers: What the node has said.
        clock_ns: What /clock shows [ns]; None before anything is played.
        max_spread_ns: Images of a set are at most so far from the reference image.
        max_age_ns: How long the node waits for the images of a set.
        timeout_s: A set that is waited for longer than that is given up here.
    """

    def __init__(
        self,
        reference_topic: str,
        image_topics: Collection[str],
        *,
        answers: Answers,
        clock_ns: Callable[[], int | None],
        max_spread_ns: int,
        max_age_ns: int,
        timeout_s: float,
    ) -> None:
        self._reference_topic = reference_topic
        self._answers = answers
        self._clock_ns = clock_ns
        self._max_spread_ns = max_spread_ns
        self._max_age_ns = max_age_ns
        self._timeout_s = timeout_s
        self._sent: dict[str, deque[int]] = {topic: deque(maxlen=_NUM_STAMPS) for topic in image_topics}
        self._pending: list[_Pending] = []

    def __call__(self, message: BagMessage) -> bool:
        """Whether a message may go out now; it does where this says so."""
        clock_ns = self._clock_ns()
        for entry in self._pending:
            entry.clock_ns = clock_ns if entry.clock_ns is None else entry.clock_ns
        if message.topic == self._reference_topic:
            self._pending = [entry for entry in self._pending if not self._is_done(entry)]
            if any(entry.awaited_since_s is not None for entry in self._pending):
                return False
            self._answers.expect(message.stamp_ns)
            self._pending.append(_Pending(stamp_ns=message.stamp_ns))
        if message.topic in self._sent:
            self._sent[message.topic].append(message.stamp_ns)
        return True

    def _is_done(self, entry: _Pending) -> bool:
        """Whether a set is settled, or was waited for too long."""
        if self._answers.is_settled(entry.stamp_ns):
            return True
        if entry.awaited_since_s is None and (self._is_complete(entry) or self._is_overdue(entry)):
            entry.awaited_since_s = time.perf_counter()
        return entry.awaited_since_s is not None and time.perf_counter() - entry.awaited_since_s > self._timeout_s

    def _is_complete(self, entry: _Pending) -> bool:
        """Whether an image of each camera is out that belongs to a set, not to one before or after it."""
        return all(any(self._belongs(stamp, entry.stamp_ns) for stamp in stamps) for stamps in self._sent.values())

    def _belongs(self, stamp_ns: int, to_ns: int) -> bool:
        apart_ns = abs(stamp_ns - to_ns)
        nearest_ns = min(abs(stamp_ns - reference_ns) for reference_ns in self._sent[self._reference_topic])
        return apart_ns <= min(self._max_spread_ns, nearest_ns)

    def _is_overdue(self, entry: _Pending) -> bool:
        now_ns = self._clock_ns()
        if entry.clock_ns is None or now_ns is None:
            return False
        return now_ns - entry.clock_ns > self._max_age_ns + _GIVE_UP_NS

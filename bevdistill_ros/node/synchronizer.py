"""Sets of the camera ring, anchored at one camera.

An image of the reference camera anchors a set, and every other camera contributes the image nearest in time. The set
is emitted as soon as no nearer image can come, so it costs no wait beyond the last camera of the ring. The interface is
that of `message_filters`.
"""

import threading
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bevdistill_ros.node.filters import SimpleFilter

MissingCamera = Literal["skip", "blank"]

CLOCK_JUMP_NS = 1_000_000_000  # a stream whose stamps fall back by more has had its clock set back
FIRST_GAP_NS = 50_000_000  # taken for the gap of a stream that has shown none yet: no camera of a ring is much faster
NUM_GAPS = 8  # recent gaps that tell the period of a stream
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

    def add(self, stamp: int, message: Any) -> bool:
        """Store a message; False where one of this stamp is there already."""
        place = bisect_left(self._entries, stamp, key=_stamp_of_entry)
        if place < len(self._entries) and self._entries[place][0] == stamp:
            return False
        if self.newest is not None and stamp > self.newest:
            self._gaps.append(stamp - self.newest)
        self.newest = stamp if self.newest is None else max(self.newest, stamp)
        self._entries.insert(place, (stamp, message))
        del self._entries[: -self._capacity]
        return True

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

    def forget_before(self, stamp: int) -> None:
        """Let go of messages older than a stamp."""
        del self._entries[: bisect_left(self._entries, stamp, key=_stamp_of_entry)]


@dataclass(order=True)
class _Anchor:
    stamp: int
    arrived: int


class AnchorSynchronizer(SimpleFilter):
    """Emits one message a camera, in the order of `names`; None stands for a camera that is missing.

    Every set that is not emitted is reported through `on_drop`. Times are in nanoseconds.

    Args:
        filters: One a camera, in the order of `names`.
        names: Camera names.
        reference: The camera whose images anchor the sets.
        max_spread_ns: Largest difference of two stamps in a set.
        max_age_ns: Longest wait for the other cameras after the anchor arrived.
        missing_camera: What to do where a camera has no image near enough: `skip` the set or emit it with a `blank`.
        stamp_of: The stamp of a message [ns].
        now_ns: The clock that `max_age_ns` is measured with.
        on_drop: Called with the reason when a set is dropped.
        on_clock_jump: Called with the new stamp after stamps went back and everything stored was forgotten.
        queue_size: Messages kept a camera, and anchors that wait.

    Raises:
        ValueError: The reference is no camera, or the number of filters is not that of the names.
    """

    def __init__(
        self,
        filters: Sequence[Any],
        *,
        names: Sequence[str],
        reference: str,
        max_spread_ns: int,
        max_age_ns: int,
        missing_camera: MissingCamera,
        stamp_of: Callable[[Any], int],
        now_ns: Callable[[], int],
        on_drop: Callable[[str], None] = lambda reason: None,
        on_clock_jump: Callable[[int], None] = lambda stamp_ns: None,
        queue_size: int = 10,
    ) -> None:
        super().__init__()
        if reference not in names:
            raise ValueError(
                f"sync.reference_camera is '{reference}', but must be one of the cameras {', '.join(names)}"
            )
        if len(filters) != len(names):
            raise ValueError(f"{len(names)} cameras need as many filters, but got {len(filters)}")
        self._names = tuple(names)
        self._reference = reference
        self._max_spread = max_spread_ns
        self._max_age = max_age_ns
        self._missing_camera = missing_camera
        self._stamp_of = stamp_of
        self._now_ns = now_ns
        self._on_drop = on_drop
        self._on_clock_jump = on_clock_jump
        self._queue_size = queue_size
        self._lock = threading.Lock()
        self.images_ignored: Counter[str] = Counter()
        self._forget()
        self.connectInput(filters)

    def connectInput(self, fs: Sequence[Any]) -> None:
        """Listen to these filters, one a camera."""
        for name, source in zip(self._names, fs, strict=True):
            source.registerCallback(self._receive, name)

    def expire(self) -> None:
        """Give up waiting where it has been too long; to be called now and then, as a dead ring calls nothing."""
        with self._lock:
            ready, dropped = self._resolve()
        self._emit(ready, dropped)

    def reset(self) -> None:
        """Forget everything stored."""
        with self._lock:
            self._forget()

    def _receive(self, message: Any, name: str) -> None:
        stamp = self._stamp_of(message)
        with self._lock:
            jumped = self._went_back(name, stamp)
            dropped = ["clock went back"] * len(self._anchors) if jumped else []
            if jumped:
                self._forget()
            dropped += self._store(name, stamp, message)
            ready, unfit = self._resolve()
        # Outside the lock, so that a callback that throws cannot leave it held.
        if jumped:
            self._on_clock_jump(stamp)
        self._emit(ready, dropped + unfit)

    def _forget(self) -> None:
        # A reference image must outlive the wait of its anchor, so each stream holds twice the queue.
        self._streams = {name: Stream(2 * self._queue_size) for name in self._names}
        self._anchors: list[_Anchor] = []
        self._last_resolved: int | None = None
        self._silent: set[str] = set()

    def _went_back(self, name: str, stamp: int) -> bool:
        newest = self._streams[name].newest
        return newest is not None and stamp < newest - CLOCK_JUMP_NS

    def _store(self, name: str, stamp: int, message: Any) -> list[str]:
        """Store a message; returns the reasons of sets dropped for want of room."""
        self._silent.discard(name)
        if not self._streams[name].add(stamp, message):
            self.images_ignored["duplicate"] += 1
            return []
        if name != self._reference:
            return []
        if self._last_resolved is not None and stamp <= self._last_resolved:
            self.images_ignored["late"] += 1
            return ["anchor came after a later one was used"]
        insort(self._anchors, _Anchor(stamp, self._now_ns()))
        surplus = max(len(self._anchors) - self._queue_size, 0)
        del self._anchors[:surplus]
        return ["synchroniser queue full"] * surplus

    def _resolve(self) -> tuple[list[tuple[Any, ...]], list[str]]:
        """Sets that are ready, oldest first, and the reasons of those given up."""
        now = self._now_ns()
        ready: list[tuple[Any, ...]] = []
        dropped: list[str] = []
        while self._anchors:
            anchor = self._anchors[0]
            anchor.arrived = min(anchor.arrived, now)  # a clock set back must not make the wait longer
            overdue = now - anchor.arrived >= self._max_age
            chosen = {name: stream.nearest(anchor.stamp, self._max_spread) for name, stream in self._streams.items()}
            unsettled = set() if overdue else self._unsettled(anchor.stamp)
            outliers = self._outliers(anchor.stamp, {name: chosen[name] for name in chosen if name not in unsettled})
            reason = self._reason_to_skip(chosen, unsettled, outliers)
            if unsettled and not reason:
                break
            # Where a set is skipped anyway, there is no time to win.
            if overdue and self._missing_camera == "blank":
                self._note_silent(anchor.stamp)
            if reason:
                dropped.append(reason)
            else:
                usable = {name: entry[1] for name, entry in chosen.items() if entry and name not in outliers}
                ready.append(tuple(usable.get(name) for name in self._names))
            self._anchors.pop(0)
            self._last_resolved = anchor.stamp
            for stream in self._streams.values():
                stream.forget_before(anchor.stamp - self._max_spread)
        return ready, dropped

    def _unsettled(self, stamp: int) -> set[str]:
        """Cameras that a nearer image may still come from."""
        others = (name for name in self._names if name != self._reference and name not in self._silent)
        return {name for name in others if not self._streams[name].is_settled(stamp, self._max_spread)}

    def _note_silent(self, stamp: int) -> None:
        """Do not wait again for cameras that sent nothing of late; their next message calls them back."""
        for name, stream in self._streams.items():
            if stream.newest is None or stream.newest < stamp - self._max_spread:
                self._silent.add(name)

    def _outliers(self, stamp: int, chosen: Mapping[str, tuple[int, Any] | None]) -> dict[str, int]:
        """Cameras that must go, those furthest from the anchor first, for the rest to be within the largest spread.

        Returns:
            Spread with each of them [ns], by name.
        """
        stamps = {name: entry[0] for name, entry in chosen.items() if entry}
        outliers: dict[str, int] = {}
        while (spread := max(stamps.values()) - min(stamps.values())) > self._max_spread:
            furthest = max(stamps, key=lambda name: abs(stamps[name] - stamp))
            outliers[furthest] = spread
            del stamps[furthest]
        return outliers

    def _reason_to_skip(
        self, chosen: Mapping[str, tuple[int, Any] | None], unsettled: set[str], outliers: Mapping[str, int]
    ) -> str:
        """Why there can be no set, whatever may still come of the unsettled cameras; empty where there can be."""
        if self._missing_camera == "blank":
            return ""
        missing = [name for name in self._names if chosen[name] is None and name not in unsettled]
        if missing:
            return f"missing {', '.join(missing)}"
        if outliers:
            return f"spread of {max(outliers.values()) / 1e6:.0f} ms above sync.max_spread_ms ({', '.join(outliers)})"
        return ""

    def _emit(self, ready: list[tuple[Any, ...]], dropped: list[str]) -> None:
        for reason in dropped:
            self._on_drop(reason)
        for messages in ready:
            self.signalMessage(*messages)


def _stamp_of_entry(entry: tuple[int, Any]) -> int:
    return entry[0]

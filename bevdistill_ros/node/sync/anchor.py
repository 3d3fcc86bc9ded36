"""Synchronised sets of images, anchored at one camera.

An image of the reference camera anchors a set, and every other camera contributes the image nearest in time. The set
is emitted as soon as no nearer image can come, so it waits no longer than for the last camera. While the
reference camera is silent, another one anchors the sets. The interface is that of `message_filters`.
"""

import math
import threading
from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bevdistill_ros.interface import drops
from bevdistill_ros.node.records import CLOCK_JUMP_NS, DroppedSet
from bevdistill_ros.node.sync.filters import SimpleFilter
from bevdistill_ros.node.sync.stream import FIRST_GAP_NS, Stream

MissingCamera = Literal["skip", "blank"]


@dataclass(order=True)
class _Anchor:
    stamp: int
    arrived: int
    camera: str


class AnchorSynchronizer(SimpleFilter):
    """Emits one message per camera, in the order of `names`; None stands for a camera that is missing.

    Every set that is not emitted is reported through `on_drop`. Times are in nanoseconds.

    Args:
        filters: One per camera, in the order of `names`.
        names: Camera names.
        reference: The camera whose images anchor the sets.
        max_spread_ns: Largest difference of two stamps in a set.
        max_age_ns: Longest wait for the other cameras after the anchor arrived.
        camera_timeout_ns: A reference that sends nothing for longer is stood in for by another camera.
        missing_camera: What to do where a camera has no image near enough: `skip` the set or emit it with a `blank`.
        stamp_of: The stamp of a message [ns].
        now_ns: The clock that waits are measured with.
        on_drop: Called when a set is dropped.
        on_ignored: Called with a camera and the reason when an image is ignored.
        on_clock_jump: Called with the new stamp after stamps went back and everything stored was forgotten.
        queue_size: Messages kept per camera, and anchors that wait.

    Raises:
        ValueError: The reference is not one of the cameras, or the number of filters is not that of the names.
    """

    def __init__(
        self,
        filters: Sequence[Any],
        *,
        names: Sequence[str],
        reference: str,
        max_spread_ns: int,
        max_age_ns: int,
        camera_timeout_ns: int,
        missing_camera: MissingCamera,
        stamp_of: Callable[[Any], int],
        now_ns: Callable[[], int],
        on_drop: Callable[[DroppedSet], None] = lambda dropped: None,
        on_ignored: Callable[[str, str], None] = lambda camera, reason: None,
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
        self._camera_timeout = camera_timeout_ns
        self._missing_camera = missing_camera
        self._stamp_of = stamp_of
        self._now_ns = now_ns
        self._on_drop = on_drop
        self._on_ignored = on_ignored
        self._on_clock_jump = on_clock_jump
        self._queue_size = queue_size
        self._lock = threading.Lock()
        self._looked = -math.inf  # when waits were last looked at [ns]
        self.anchor = reference  # the camera that anchors the set that is emitted
        self._forget()
        self.connectInput(filters)

    def connectInput(self, fs: Sequence[Any]) -> None:
        """Listen to these filters, one per camera."""
        for name, source in zip(self._names, fs, strict=True):
            source.registerCallback(self._receive, name)

    def expire(self) -> None:
        """Give up waiting where it has been too long; to be called periodically, as dead cameras call nothing.

        A set that waits for too long is given up at the second look that finds it so, since a process that was stalled
        takes what came meanwhile only after its timers.
        """
        with self._lock:
            now = self._now_ns()
            ready, dropped = self._resolve(waited_until=min(self._looked, now))
            self._looked = now
        self._emit(ready, dropped)

    @property
    def is_waiting(self) -> bool:
        """Whether there is anything to give up."""
        with self._lock:
            return bool(self._anchors)

    def _receive(self, message: Any, name: str) -> None:
        stamp = self._stamp_of(message)
        with self._lock:
            jumped = self._went_back(name, stamp)
            dropped = [self._dropped(drops.CLOCK_WENT_BACK, anchor.stamp) for anchor in self._anchors] if jumped else []
            if jumped:
                self._forget()
            ignored = self._reason_to_ignore(name, stamp)
            if not ignored:
                dropped += self._store(name, stamp, message)
            ready, unfit = self._resolve()
        # Outside the lock, so that a callback that throws cannot leave it held.
        if jumped:
            self._on_clock_jump(stamp)
        if ignored:
            self._on_ignored(name, ignored)
        self._emit(ready, dropped + unfit)

    def _forget(self) -> None:
        # A reference image must outlive the wait of its anchor, so each stream holds twice the queue.
        self._streams = {name: Stream(2 * self._queue_size) for name in self._names}
        self._anchors: list[_Anchor] = []
        self._last: _Anchor | None = None  # whose set was emitted or given up
        self._silent: set[str] = set()
        self._heard: dict[str, int] = {}  # when each camera sent its last image [ns]
        self._offsets: dict[str, int] = {}  # how much later than the reference each camera fired last [ns]

    def _went_back(self, name: str, stamp: int) -> bool:
        newest = self._streams[name].newest
        return newest is not None and stamp < newest - CLOCK_JUMP_NS

    def _reason_to_ignore(self, name: str, stamp: int) -> str:
        if self._streams[name].has(stamp):
            return "an image with the stamp of an earlier one is ignored: does a recording of under a second loop?"
        if name == self._reference and self._last and stamp <= self._last.stamp:
            return "an image that came after a later one was used is ignored"
        return ""

    def _store(self, name: str, stamp: int, message: Any) -> list[DroppedSet]:
        """Store a message; returns sets that are dropped by it."""
        now = self._now_ns()
        self._silent.discard(name)
        self._heard[name] = now
        # From the first image on the reference has as long as any camera to show up.
        self._heard.setdefault(self._reference, now)
        dropped = self._replace_stand_ins(stamp) if name == self._reference else []
        self._streams[name].add(stamp, message)
        if name != self._leader(now) or self._is_anchored(name, stamp):
            return dropped
        insort(self._anchors, _Anchor(stamp, now, name))
        while len(self._anchors) > self._queue_size:
            dropped += self._settle(self._anchors.pop(0), drops.QUEUE_FULL)
        return dropped

    def _settle(self, anchor: _Anchor, reason: str = "") -> list[DroppedSet]:
        """Be done with an anchor; returns sets that are lost: those before it without one, and its own for a reason."""
        dropped = self._lost_before(anchor)
        self._last = anchor
        return [*dropped, self._dropped(reason, anchor.stamp)] if reason else dropped

    def _is_anchored(self, name: str, stamp: int) -> bool:
        """Whether the round of an image has an anchor already, as it has where another camera stood in."""
        last = self._anchors[-1] if self._anchors else self._last
        if last is None:
            return False
        if last.camera == name:
            return last is self._last and stamp <= last.stamp
        return stamp <= last.stamp + (self._streams[name].period() or FIRST_GAP_NS) / 2

    def _leader(self, now: int) -> str:
        """The camera that anchors sets: the reference, or while it is silent one that fires mid-sweep."""
        alive = [name for name in self._names if now - self._heard.get(name, -math.inf) < self._camera_timeout]
        if self._reference in alive or not alive:
            return self._reference
        return sorted(alive, key=lambda name: self._offsets.get(name, 0))[len(alive) // 2]

    def _replace_stand_ins(self, stamp: int) -> list[DroppedSet]:
        """Let an image of the reference take over from anchors of another camera; returns sets that it cannot save."""
        stand_ins = [anchor for anchor in self._anchors if anchor.camera != self._reference]
        self._anchors = [anchor for anchor in self._anchors if anchor.camera == self._reference]
        # Those beside it or after it are its own to anchor.
        lost = [anchor for anchor in stand_ins if anchor.stamp < stamp - self._max_spread]
        return [entry for anchor in lost for entry in self._settle(anchor, drops.missing([self._reference]))]

    def _lost_before(self, anchor: _Anchor) -> list[DroppedSet]:
        """Sets since the last one that had no anchor, as the reference left out beats at which other cameras sent."""
        period = self._streams[self._reference].period()
        if period is None or self._last is None:
            return []
        gap = anchor.stamp - self._last.stamp
        beats = round(gap / period)
        others = [stream for name, stream in self._streams.items() if name != self._reference]
        # Further back than images are kept there is nothing to see.
        missed = [anchor.stamp - gap * beat // beats for beat in range(min(beats, 2 * self._queue_size) - 1, 0, -1)]
        seen = [at for at in missed if any(stream.nearest(at, round(period / 2)) for stream in others)]
        return [self._dropped(drops.missing([self._reference]), at) for at in seen]

    def _dropped(self, reason: str, stamp: int) -> DroppedSet:
        chosen = (stream.nearest(stamp, self._max_spread) for stream in self._streams.values())
        stamps = tuple(entry[0] if entry else None for entry in chosen)
        return DroppedSet(reason=reason, stamp_ns=stamp, stamps_ns=stamps)

    def _resolve(self, waited_until: float = -math.inf) -> tuple[list[tuple[str, tuple[Any, ...]]], list[DroppedSet]]:
        """Sets that are ready, each with the camera that anchors it, oldest first; and those given up.

        Waits count until `waited_until` [ns]: none is too long where that is left out.
        """
        now = self._now_ns()
        ready: list[tuple[str, tuple[Any, ...]]] = []
        dropped: list[DroppedSet] = []
        while self._anchors:
            anchor = self._anchors[0]
            anchor.arrived = min(anchor.arrived, now)  # a clock set back must not make the wait longer
            overdue = waited_until - anchor.arrived >= self._max_age
            chosen = {name: stream.nearest(anchor.stamp, self._max_spread) for name, stream in self._streams.items()}
            unsettled = set() if overdue else self._unsettled(anchor)
            outliers = self._outliers(anchor.stamp, {name: chosen[name] for name in chosen if name not in unsettled})
            reason = self._reason_to_skip(chosen, unsettled, outliers)
            if unsettled and not reason:
                break
            if anchor.camera == self._reference:
                self._offsets.update({name: entry[0] - anchor.stamp for name, entry in chosen.items() if entry})
            dropped += self._settle(self._anchors.pop(0), reason)
            # Where a set is skipped anyway, there is no time to win.
            if overdue and self._missing_camera == "blank":
                self._note_silent(anchor.stamp)
            if not reason:
                usable = {name: entry[1] for name, entry in chosen.items() if entry and name not in outliers}
                ready.append((anchor.camera, tuple(usable.get(name) for name in self._names)))
            for stream in self._streams.values():
                stream.forget_before(anchor.stamp - self._max_spread)
        return ready, dropped

    def _unsettled(self, anchor: _Anchor) -> set[str]:
        """Cameras that a nearer image may still come from."""
        others = (name for name in self._names if name != anchor.camera and name not in self._silent)
        return {name for name in others if not self._streams[name].is_settled(anchor.stamp, self._max_spread)}

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
        # A reference that may still come anchors the set itself.
        if self._missing_camera == "blank" or self._reference in unsettled:
            return ""
        missing = [name for name in self._names if chosen[name] is None and name not in unsettled]
        if missing:
            return drops.missing(missing)
        if outliers:
            return drops.spread(max(outliers.values()) / 1e6, outliers)
        return ""

    def _emit(self, ready: list[tuple[str, tuple[Any, ...]]], dropped: list[DroppedSet]) -> None:
        for entry in dropped:
            self._on_drop(entry)
        for camera, messages in ready:
            self.anchor = camera
            self.signalMessage(*messages)

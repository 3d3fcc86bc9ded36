"""Images of the cameras become sets. It needs no ROS: where the images come from is the business of its filters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bevdistill_ros.interface import drops
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node.diagnostics import age_ms
from bevdistill_ros.node.records import DroppedSet, ImageSet
from bevdistill_ros.node.rig.waiting import REAL_TIME, Waiting
from bevdistill_ros.node.sync.anchor import AnchorSynchronizer
from bevdistill_ros.node.sync.clocks import ClockWatch
from bevdistill_ros.node.sync.filters import approximate_time
from bevdistill_ros.node.unpack import frame_of, stamp_of

QUEUE_SIZE = 10  # images of a camera, and anchors that wait
NUM_ARRIVALS = 64  # arrivals of a camera's images that are remembered


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Who gets what."""

    on_set: Callable[[ImageSet], None]
    on_image: Callable[[str], None]  # camera
    on_drop: Callable[[DroppedSet], None]
    on_clock_jump: Callable[[int], None]  # the new stamp [ns]
    on_fault: Callable[[str, str], None]  # subject, what is wrong


class SetMaker:
    """Puts the images that filters emit together to sets.

    Args:
        filters: One per camera, in the order of the parameter `cameras`.
        parameters: The node's.
        listeners: Who gets what.
        now_ns: The clock that stamps are compared with [ns].
        time: In which images arrive.

    Raises:
        ValueError: The synchroniser that the parameters choose is not installed.
    """

    def __init__(
        self,
        filters: Sequence[Any],
        parameters: DetectorParameters,
        listeners: Listeners,
        *,
        now_ns: Callable[[], int],
        time: Waiting = REAL_TIME,
    ) -> None:
        self._parameters = parameters
        self._listeners = listeners
        self._now_ns = now_ns
        self._time = time
        self._clocks = ClockWatch()
        self._arrivals: dict[tuple[str, int], tuple[float, float]] = {}
        # Registered before the synchroniser's own, so that the arrival is known when it emits.
        for camera, source in zip(parameters.cameras, filters, strict=True):
            source.registerCallback(self._on_image, camera)
        self._synchronizer = self._synchronize(list(filters))
        self._synchronizer.registerCallback(self._on_messages)

    def expire(self) -> None:
        """Let no set wait for ever; to be called every now and then."""
        if isinstance(self._synchronizer, AnchorSynchronizer):
            self._synchronizer.expire()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a set to give up."""
        return isinstance(self._synchronizer, AnchorSynchronizer) and self._synchronizer.is_waiting

    def _synchronize(self, filters: list[Any]) -> Any:
        sync = self._parameters.sync
        if sync.policy == "approximate_time":
            return approximate_time(
                filters,
                queue_size=QUEUE_SIZE,
                slop=sync.max_spread_ms / 1e3,
                stamp_of=stamp_of,
                on_clock_jump=self._listeners.on_clock_jump,
            )
        return AnchorSynchronizer(
            filters,
            names=self._parameters.cameras,
            reference=self._parameters.reference_camera,
            max_spread_ns=round(sync.max_spread_ms * 1e6),
            max_age_ns=round(sync.max_age_ms * 1e6),
            camera_timeout_ns=round(self._parameters.diagnostics.camera_timeout_s * 1e9),
            missing_camera=self._parameters.missing_camera,
            stamp_of=stamp_of,
            now_ns=self._now_ns,
            on_drop=self._listeners.on_drop,
            on_ignored=self._listeners.on_fault,
            on_clock_jump=self._listeners.on_clock_jump,
            queue_size=QUEUE_SIZE,
        )

    def _on_image(self, message: Any, camera: str) -> None:
        self._listeners.on_image(camera)
        stamp = stamp_of(message)
        arrived = self._time.now_s()
        self._arrivals[camera, stamp] = (arrived, age_ms(stamp, self._now_ns()))
        if fault := self._clocks.check(camera, stamp, arrived):
            self._listeners.on_fault(camera, fault)
        while len(self._arrivals) > NUM_ARRIVALS * len(self._parameters.cameras):
            del self._arrivals[next(iter(self._arrivals))]

    def _on_messages(self, *messages: Any) -> None:
        stamps = tuple(None if message is None else stamp_of(message) for message in messages)
        anchor = getattr(self._synchronizer, "anchor", self._parameters.reference_camera)
        stamp = stamps[self._parameters.cameras.index(anchor)]
        assert stamp is not None, "a set has no image that anchors it"
        received, transport_age = self._arrivals.get((anchor, stamp), (self._time.now_s(), math.nan))
        images = ImageSet(
            stamp_ns=stamp,
            messages=messages,
            stamps_ns=stamps,
            frame_ids=tuple("" if message is None else frame_of(message) for message in messages),
            received=received,
            transport_age_ms=transport_age,
        )
        if images.spread_ms > self._parameters.sync.max_spread_ms:
            self._listeners.on_drop(images.dropped(drops.spread(images.spread_ms)))
            return
        self._listeners.on_set(images)

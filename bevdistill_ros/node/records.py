"""What passes between the files of the node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.coverage import CameraCoverage

CLOCK_JUMP_NS = 1_000_000_000  # a stream whose stamps fall back by more has had its clock set back


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """A synchronised set of image messages, one per camera, in camera order."""

    stamp_ns: int  # of the reference camera
    messages: tuple[Any | None, ...]
    stamps_ns: tuple[int | None, ...]
    frame_ids: tuple[str, ...]  # of the images' headers; empty where one is missing or names none
    received: float  # when the reference camera's image came [s], time.monotonic
    transport_age_ms: float  # age of the reference camera's image then; nan where it is stamped by another clock

    @property
    def spread_ms(self) -> float:
        """Newest minus oldest stamp [ms]."""
        stamps = [stamp for stamp in self.stamps_ns if stamp is not None]
        return (max(stamps) - min(stamps)) / 1e6

    def dropped(self, reason: str) -> "DroppedSet":
        """This set, not used for a reason."""
        return DroppedSet(reason=reason, stamp_ns=self.stamp_ns, stamps_ns=self.stamps_ns)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What was known of the ego motion of a set."""

    is_known: bool  # whether every image has a pose; without, the set is detected by itself
    lag_ms: float = 0.0  # from the newest pose to the newest image; where poses are known, they are extrapolated so far
    memory_s: float | None = None  # age of the BEV that the network was reminded of; None: none


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A set that is ready for the network."""

    frame: CameraFrame  # its images are good until the pipeline's buffers are used again
    stage_ms: dict[str, float]  # so far
    motion: Motion  # without the age of the memory
    forget: bool  # the memory before this set
    rig_changed: bool  # intrinsics or a mounting differ from the set before
    new_rig: CameraRig | None  # see `Outcome`
    coverage: Sequence[CameraCoverage] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a set."""

    frame: CameraFrame  # its images are good until the next set
    detections: Detections
    stage_ms: dict[str, float]
    motion: Motion
    rig_changed: bool  # intrinsics or a mounting differ from the set before, so the memory was reset
    new_rig: CameraRig | None  # the vehicle's rig, once after each change of it; None otherwise
    coverage: Sequence[CameraCoverage] = ()  # what the network sees of the cameras of a new rig


@dataclass(frozen=True, kw_only=True)
class DroppedSet:
    """A set that is not used."""

    reason: str  # as interface.drops words it
    stamp_ns: int  # of the image that anchors it, or where that image should have been
    stamps_ns: tuple[int | None, ...]  # of each camera's image; None for one that is not there


class Level(IntEnum):
    """Values of diagnostic_msgs/DiagnosticStatus."""

    OK = 0
    WARN = 1
    ERROR = 2
    STALE = 3


@dataclass(frozen=True, kw_only=True)
class Item:
    """One line of /diagnostics."""

    name: str
    level: Level
    message: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SetReport:
    """How one set of images passed through the node."""

    stamp_ns: int
    cameras: tuple[str, ...]
    present: tuple[bool, ...]
    age_ms: tuple[float, ...]  # of each camera's image at publish; nan where missing or stamped by another clock
    spread_ms: float
    stage_ms: Mapping[str, float]  # by STAGES
    latency_ms: float  # oldest image stamp to publish; nan where stamped by another clock
    motion: Motion

"""What goes wrong with cameras and odometry in the soak, at times drawn at random."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

FaultKind = Literal[
    "dead camera", "late camera", "loss", "truncated", "encoding", "size", "calibration", "odometry gap", "clock back"
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)
LATE_S = 0.2  # how late the images of a late camera are sent
LOSS = 0.05  # part of all images that is lost
CLOCK_BACK_S = 5.0  # how far stamps go back


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that is wrong for a while."""

    kind: FaultKind
    camera: str  # whose images or calibration are wrong; ignored by loss, odometry gap and clock back
    start_s: float  # from the start of the soak
    end_s: float


def draw_faults(
    *, seed: int, seconds: float, cameras: Sequence[str], shortest_s: float = 2.0, longest_s: float = 6.0
) -> tuple[Fault, ...]:
    """Faults one after the other, with as much time between them; all kinds come before one comes again.

    Args:
        seed: The same seed draws the same faults.
        seconds: Length of the soak [s]; it begins and ends in good health.
        cameras: Cameras that may be at fault.
        shortest_s: Shortest fault, and shortest time between two [s].
        longest_s: Longest fault, and longest time between two [s].
    """
    rng = np.random.default_rng(seed)
    faults: list[Fault] = []
    deck: list[FaultKind] = []
    now = 0.0
    while True:
        deck = deck or [KINDS[index] for index in rng.permutation(len(KINDS))]
        start = now + float(rng.uniform(shortest_s, longest_s))
        now = start + float(rng.uniform(shortest_s, longest_s))
        if now + shortest_s > seconds:
            return tuple(faults)
        camera = cameras[int(rng.integers(len(cameras)))]
        faults.append(Fault(kind=deck.pop(), camera=camera, start_s=start, end_s=now))


def fault_at(faults: Sequence[Fault], seconds: float) -> Fault | None:
    """The fault that reigns at a time since the start, if any; faults come by time."""
    place = bisect_right(faults, seconds, key=_start_of) - 1
    return faults[place] if place >= 0 and seconds < faults[place].end_s else None


def is_near(faults: Sequence[Fault], seconds: float, margin_s: float) -> bool:
    """Whether a fault reigns at most `margin_s` before or after a time."""
    return any(fault.start_s - margin_s <= seconds < fault.end_s + margin_s for fault in faults)


def _start_of(fault: Fault) -> float:
    return fault.start_s

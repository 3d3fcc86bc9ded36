"""The plan of a soak's vehicle and the log that it returns, as JSON files; and what became of each set."""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.interface.drops import BUSY
from training.benchmark.node.faults import Fault, fault_at, is_near

HEALTHY, EDGE = "healthy", "just before or after a fault"
EDGE_S = 0.5  # from a fault on, within which sets may still suffer from it


@dataclass(frozen=True, kw_only=True)
class SoakPlan:
    """What the vehicle sends."""

    receiver_pid: int  # of the node
    pictures: str  # folder with `<camera>.jpg`
    cameras: tuple[str, ...]
    rate_hz: float  # of each camera
    seconds: float
    seed: int  # of the faults
    start_timeout_s: float  # for the node to subscribe

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "SoakPlan":
        """Inverse of `write`."""
        content = json.loads(path.read_text())
        return cls(**content | {"cameras": tuple(content["cameras"])})


@dataclass(frozen=True, kw_only=True)
class SentSet:
    """Images of one stamp."""

    stamp_ns: int
    at_s: float  # since the start of the soak
    num_images: int  # 0 where all of them were lost


@dataclass(frozen=True, kw_only=True)
class SetStatus:
    """What the node reported of one set."""

    stamp_ns: int  # of a set without its reference image only about its stamp
    dropped: str  # why; empty where it was processed
    sets_processed: int  # so far
    sets_dropped: int  # so far


@dataclass(frozen=True, kw_only=True)
class SoakLog:
    """What was sent, and what came back."""

    sent: tuple[SentSet, ...]
    detected_ns: tuple[int, ...]  # stamps of the detections
    reported: tuple[SetStatus, ...]  # by arrival

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "SoakLog":
        """Inverse of `write`."""
        content = json.loads(path.read_text())
        return cls(
            sent=tuple(SentSet(**entry) for entry in content["sent"]),
            detected_ns=tuple(content["detected_ns"]),
            reported=tuple(SetStatus(**entry) for entry in content["reported"]),
        )


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of the sets that were sent under one condition."""

    sets: int = 0
    detected: int = 0
    dropped: Mapping[str, int]  # by the reason that the node reported, the most frequent first
    unreported: int = 0  # sets that the node reports nothing about


@dataclass(frozen=True, kw_only=True)
class Account:
    """All sets, and whether each is accounted for."""

    fates: Mapping[str, Fate]  # by fault, or `HEALTHY` or `EDGE`
    unexplained: tuple[str, ...]  # what no fault explains, in words

    @property
    def sets(self) -> int:
        """Sets sent."""
        return sum(fate.sets for fate in self.fates.values())


def account(log: SoakLog, faults: Sequence[Fault], rate_hz: float) -> Account:
    """Find the fate of each set and compare it with the injected faults.

    Args:
        log: Of the vehicle.
        faults: That it made.
        rate_hz: Of its cameras.
    """
    detected = set(log.detected_ns)
    reasons = _reasons_by_set(log, half_period_ns=round(0.5e9 / rate_hz))
    rows: dict[str, list[tuple[SentSet, str]]] = {}
    for entry in log.sent:
        fault = fault_at(faults, entry.at_s)
        condition = fault.kind if fault else EDGE if is_near(faults, entry.at_s, EDGE_S) else HEALTHY
        outcome = "detected" if entry.stamp_ns in detected else reasons.get(entry.stamp_ns, "")
        rows.setdefault(condition, []).append((entry, outcome))
    fates = {
        condition: Fate(
            sets=len(sets),
            detected=sum(outcome == "detected" for _, outcome in sets),
            dropped=dict(Counter(outcome for _, outcome in sets if outcome not in ("detected", "")).most_common()),
            unreported=sum(not outcome and entry.num_images > 0 for entry, outcome in sets),
        )
        for condition, sets in sorted(rows.items())
    }
    return Account(fates=fates, unexplained=(*_unexplained(fates), *_disagreements(log)))


def _reasons_by_set(log: SoakLog, half_period_ns: int) -> dict[int, str]:
    """Reason of the node by the stamp of each set that it dropped."""
    stamps = sorted(entry.stamp_ns for entry in log.sent)
    reasons: dict[int, str] = {}
    for status in log.reported:
        if not status.dropped:
            continue
        place = bisect_left(stamps, status.stamp_ns)
        near = min(stamps[max(place - 1, 0) : place + 1], key=lambda stamp: abs(stamp - status.stamp_ns))
        if abs(near - status.stamp_ns) <= half_period_ns:
            reasons[near] = status.dropped
    return reasons


def _unexplained(fates: Mapping[str, Fate]) -> list[str]:
    """Sets dropped while nothing was faulty, and sets that the node reports nothing about."""
    lines = []
    for condition, fate in fates.items():
        if fate.unreported:
            lines.append(f"{fate.unreported} sets ({condition}) were lost and the node does not report it")
    for reason, count in fates[HEALTHY].dropped.items() if HEALTHY in fates else ():
        if reason != BUSY:
            lines.append(f"{count} sets dropped while nothing was faulty: {reason}")
    return lines


def _disagreements(log: SoakLog) -> list[str]:
    """Where the node's counters, its reports of single sets and its detections disagree."""
    sent = {entry.stamp_ns for entry in log.sent}
    dropped = sum(bool(status.dropped) for status in log.reported)
    processed = len(log.reported) - dropped
    last = max(log.reported, key=lambda status: status.sets_processed + status.sets_dropped, default=None)
    lines = []
    if strangers := len(set(log.detected_ns) - sent):
        lines.append(f"{strangers} detections have a stamp that no set had")
    if last is not None and (last.sets_processed, last.sets_dropped) != (processed, dropped):
        lines.append(
            f"the node counts {last.sets_processed} sets processed and {last.sets_dropped} dropped, "
            f"but reported {processed} and {dropped}"
        )
    if processed != len(log.detected_ns):
        lines.append(f"{processed} sets reported as processed, but {len(log.detected_ns)} with detections")
    return lines

"""How sets passed through the detector: latency by stage, drops by reason, spread of the images, and set by set."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from training.bag.recording import SetStatus

WARM_UP_SETS = 3  # the first inferences allocate and compile
TOTAL = "oldest image to publish"
ROUND_TRIP = "reference image to answer"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Distribution of a time [ms] over the sets after warm-up."""

    p50: float
    p95: float
    p99: float
    max: float
    count: int


def timing_of(
    recorded: Mapping[str, Sequence[SetStatus]],
    round_trips_ms: Sequence[float] = (),
    published_ns: Mapping[int, int] = MappingProxyType({}),
    sets_sent: int | None = None,
) -> dict[str, Any]:
    """The part `timing` of a report, as plain values for JSON.

    Args:
        recorded: What the node reported of its sets, by name of the recording.
        round_trips_ms: Reference image sent to detections received [ms], where it was measured.
        published_ns: When the detections of each stamp were published [ns].
        sets_sent: Sets that there should be; None: those that the node reported.
    """
    statuses = [status for own in recorded.values() for status in own]
    processed = sum(bool(status.stage_ms) for status in statuses)
    sent = len(statuses) if sets_sent is None else sets_sent
    spread = spread_of(statuses)
    return {
        "sets_sent": sent,
        "sets_processed": processed,
        "sets_lost": sent - processed,
        "drops": drops_of(recorded.values()),
        "latency_ms": {stage: asdict(entry) for stage, entry in latencies(statuses, round_trips_ms).items()},
        "spread_ms": asdict(spread) if spread is not None else None,
        "timeline": [_moment(name, status, published_ns) for name, own in recorded.items() for status in own],
    }


def _moment(name: str, status: SetStatus, published_ns: Mapping[int, int]) -> dict[str, Any]:
    """A set: when its reference image was taken, when its detections were published, and what took the time between."""
    moment: dict[str, Any] = {
        "recording": name,
        "stamp_ns": status.stamp_ns,
        "published_ns": published_ns.get(status.stamp_ns) if status.stage_ms else None,
        "latency_ms": round(status.latency_ms, 3) if math.isfinite(status.latency_ms) else None,
        "spread_ms": round(status.spread_ms, 3),
        "stages": {stage: round(time, 3) for stage, time in status.stage_ms.items() if math.isfinite(time)},
    }
    return moment if status.stage_ms else {**moment, "drop_reason": status.drop_reason}


def timing_table(timing: Mapping[str, Any]) -> str:
    """Latencies and drops as Markdown."""
    lines = [
        "| stage | p50 [ms] | p95 [ms] | p99 [ms] | max [ms] | sets |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = {**timing["latency_ms"], **({"spread of the images": timing["spread_ms"]} if timing["spread_ms"] else {})}
    lines += [
        f"| {stage} | {entry['p50']:.1f} | {entry['p95']:.1f} | {entry['p99']:.1f} | {entry['max']:.1f} | "
        f"{entry['count']} |"
        for stage, entry in rows.items()
    ]
    lines += [f"\ndropped: {reason} ({count} sets)".replace("|", "/") for reason, count in timing["drops"].items()]
    if "samples_unanswered" in timing:
        lines.append(f"\nkey frames without an answer: {timing['samples_unanswered']} of {timing['samples']}")
    return "\n".join(lines)


def latencies(
    statuses: Sequence[SetStatus], round_trips_ms: Sequence[float], *, warm_up: int = WARM_UP_SETS
) -> dict[str, Latency]:
    """Distribution of each stage that the node reports, of its total, and of our own measurement from outside.

    Args:
        statuses: As the node reported them.
        round_trips_ms: Reference image sent to detections received [ms], by stamp.
        warm_up: Sets at the beginning that do not count, where there are more than these.
    """
    processed = [status for status in statuses if status.stage_ms]
    settled = processed[warm_up:] or processed
    stages = dict.fromkeys(stage for status in settled for stage in status.stage_ms)
    series = {stage: [status.stage_ms[stage] for status in settled if stage in status.stage_ms] for stage in stages}
    series[TOTAL] = [status.latency_ms for status in settled]
    series[ROUND_TRIP] = list(round_trips_ms[warm_up:]) or list(round_trips_ms)
    known = {stage: [value for value in values if math.isfinite(value)] for stage, values in series.items()}
    return {stage: _distribution(values) for stage, values in known.items() if values}


def spread_of(statuses: Sequence[SetStatus]) -> Latency | None:
    """Distribution of the newest minus the oldest stamp of the images of each set; None without any."""
    spreads = [status.spread_ms for status in statuses if status.stage_ms]
    return _distribution(spreads) if spreads else None


def _distribution(values: Sequence[float]) -> Latency:
    p50, p95, p99, largest = (float(value) for value in np.percentile(values, [50, 95, 99, 100]))
    return Latency(p50=p50, p95=p95, p99=p99, max=largest, count=len(values))


def drops_of(recorded: Iterable[Sequence[SetStatus]]) -> dict[str, int]:
    """Number of dropped sets by reason in several recordings; what a node dropped before one began does not count."""
    reasons: Counter[str] = Counter()
    for statuses in recorded:
        before = statuses[0].sets_dropped - (not statuses[0].stage_ms) if statuses else 0
        reasons.update(drops_by_reason(statuses, dropped_before=before))
    return dict(reasons)


def drops_by_reason(statuses: Sequence[SetStatus], *, dropped_before: int = 0) -> dict[str, int]:
    """Number of dropped sets by reason; what was dropped between two reports goes to the last reason reported.

    Args:
        statuses: By time; a counter that falls is that of a restarted node.
        dropped_before: What the node's counter stood at before the first of them.
    """
    reasons: Counter[str] = Counter()
    for status in statuses:
        if status.sets_dropped < dropped_before:
            dropped_before = 0
        if status.sets_dropped > dropped_before:
            reasons[status.drop_reason or "no reason reported"] += status.sets_dropped - dropped_before
        dropped_before = status.sets_dropped
    return dict(reasons)

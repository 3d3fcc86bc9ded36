"""What a replay showed: sets, drops, latency by stage, metrics; as JSON and as a table."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bevdistill_ros.core.files import write_whole
from training.evaluate.metrics import Metrics
from training.score.timing import Latency

REPORT_TEXT = "report.md"


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """How long an offline replay took."""

    wall_s: float  # all of it but starting the engine and scoring [s]
    engine_s: float  # of it, in the engine [s]


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """Result of a replay."""

    bags: tuple[str, ...]
    bundle: str
    pace: str
    rate: float
    sets_sent: int  # images of the reference camera that went out
    sets_processed: int  # sets that detections came back for
    drops: Mapping[str, int]  # by the reason that the node reports
    messages_late_ms: float | None  # live: the 99th percentile of how late our own messages went out
    messages_lost: int  # that the bags count and that are missing or damaged, of the topics that were read
    samples: int  # key frames with ground truth
    samples_unanswered: int  # those without detections; they count as frames in which nothing was found
    latency_ms: Mapping[str, Latency]  # by stage
    metrics: Metrics | None  # None where no split was scored
    notes: tuple[str, ...] = ()  # what was decided about the bags, such as their topics
    faults: Mapping[str, int] = field(default_factory=dict)  # offline: what was wrong with inputs, and how often
    throughput: Throughput | None = None  # offline
    spread_ms: Latency | None = None  # newest minus oldest stamp of the images of a set

    @property
    def sets_lost(self) -> int:
        """Sets that were sent and not answered."""
        return self.sets_sent - self.sets_processed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "sets_lost": self.sets_lost}

    def markdown(self) -> str:
        """The report as Markdown tables."""
        rows = [
            ("bundle", self.bundle),
            ("bags", ", ".join(self.bags)),
            ("pace", "offline" if self.throughput else f"{self.pace}, rate {self.rate:g}"),
            ("sets sent", self.sets_sent),
            ("sets processed", self.sets_processed),
            ("sets lost", self.sets_lost),
            *(("note", note.replace("|", "/")) for note in self.notes),
            *((f"dropped: {reason}", count) for reason, count in self.drops.items()),
            *((f"fault: {fault}".replace("|", "/"), count) for fault, count in self.faults.items()),
            ("messages lost in the bags", self.messages_lost),
            *self._speed(),
            ("key frames", self.samples),
            ("key frames without an answer", self.samples_unanswered),
        ]
        if self.metrics is not None:
            rows += [("NDS", f"{self.metrics.nds:.4f}"), ("mAP", f"{self.metrics.mean_ap:.4f}")]
        lines = ["# Replay", "", "| what | value |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in rows]
        lines += [
            "",
            "| stage | p50 [ms] | p95 [ms] | p99 [ms] | max [ms] | sets |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
        ]
        lines += [
            f"| {stage} | {entry.p50:.1f} | {entry.p95:.1f} | {entry.p99:.1f} | {entry.max:.1f} | {entry.count} |"
            for stage, entry in self._distributions().items()
        ]
        return "\n".join(lines) + "\n"

    def _distributions(self) -> dict[str, Latency]:
        """Rows of the table of times."""
        spread = {"spread of the images": self.spread_ms} if self.spread_ms is not None else {}
        return {**self.latency_ms, **spread}

    def _speed(self) -> list[tuple[str, str]]:
        """How timely we were live, or how fast offline."""
        rows = []
        if self.messages_late_ms is not None:
            rows.append(("our messages late, p99 [ms]", f"{self.messages_late_ms:.1f}"))
        if self.throughput is not None:
            wall_s, engine_s = self.throughput.wall_s, self.throughput.engine_s
            rate = f"{self.sets_processed / wall_s:.1f} sets/s"
            rows.append(("time [s]", f"{wall_s:.2f}, {rate}; in the engine {engine_s:.2f} (x {wall_s / engine_s:.2f})"))
        return rows


def write_report(
    report: ReplayReport, folder: Path, *, extra: Mapping[str, Any] = MappingProxyType({}), tables: Sequence[str] = ()
) -> Path:
    """Write `report.json` and `report.md`; returns the latter.

    Args:
        report: The replay.
        folder: Where to.
        extra: What `bevdistill score` would report beside it.
        tables: That as text.
    """
    write_whole(folder / "report.json", json.dumps({**report.to_dict(), **extra}, allow_nan=False))
    path = folder / REPORT_TEXT
    write_whole(path, report.markdown() + "".join(f"\n```\n{table}\n```\n" for table in tables))
    return path

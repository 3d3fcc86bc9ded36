"""All that a report says of detections: scores, what was there in time, and how sets passed through the detector."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.files import write_whole
from training.evaluate.devkit import uncollected
from training.evaluate.metrics import RESULTS, Metrics, evaluate_boxes
from training.evaluate.results import Results
from training.score.boxes import BoxTable, table_of
from training.score.detections import found_in
from training.score.frames import Frames, frames_of
from training.score.latency_aware import InTime, score_in_time
from training.score.markers import write_markers
from training.score.parts import Parts
from training.score.recorded import RecordedDrives
from training.score.report import head_of, scores_of
from training.score.scores import Scored


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is looked at."""

    groups: Mapping[str, Parts]  # parts by name of the group
    with_scenes: bool = False
    min_score: float = 0.3  # least score of a detection that counts where there is no ground truth to choose by
    carry: bool = True  # boxes of late outputs go on by their velocity
    extra_delays_ms: tuple[float, ...] = ()  # what every output would come later, for a curve
    markers: Path | None = None  # bag of what was found, missed and wrong
    base_frame: str = "base_link"  # frame of these markers: the vehicle's


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is scored."""

    results: Results  # each key frame's own detections
    drives: RecordedDrives | None = None  # all that was published on the way, where it is known
    timing: Mapping[str, Any] | None = None  # see `timing_of`


@dataclass(frozen=True, kw_only=True)
class WholeReport:
    """A report."""

    content: dict[str, Any]  # plain values for JSON
    tables: tuple[str, ...]  # of scores, for the terminal
    metrics: Metrics | None  # official; None of a split without annotations


@uncollected()
def whole_report(
    nusc: NuScenes, subject: Subject, split: str, scope: Scope, output: Path, results_name: str = RESULTS
) -> WholeReport:
    """Score, or only count where the split has no annotations.

    Args:
        nusc: The data set.
        subject: What is scored.
        split: Its split.
        scope: What is looked at.
        output: Where the results and the devkit's files go.
        results_name: Name of the results file as seen from the report.

    Raises:
        ValueError: The results do not cover the split, or it has nothing to score.
    """
    frames = frames_of(nusc, split)
    source = {"root": str(Path(nusc.dataroot).absolute()), "version": nusc.version, "split": split}
    found = found_in(subject.results, frames)
    content = {**head_of(source, frames, found, scope.min_score), "results": results_name}
    tables: list[str] = []
    metrics = None
    if any(nusc.get("sample", token)["anns"] for token in frames.tokens):
        metrics, scores, tables = _scores(nusc, subject, split, scope, frames, output)
        content |= scores
    else:
        entries = {token: subject.results["results"][token] for token in frames.tokens}
        chosen = {"meta": subject.results["meta"], "results": entries}
        write_whole(output / RESULTS, json.dumps(chosen, allow_nan=False))
        tables.append(f"split '{split}' has no annotations: {len(found)} boxes counted, none scored")
    if subject.timing is not None:
        content["timing"] = dict(subject.timing)
    return WholeReport(content=content, tables=tuple(tables), metrics=metrics)


def _scores(
    nusc: NuScenes, subject: Subject, split: str, scope: Scope, frames: Frames, output: Path
) -> tuple[Metrics, dict[str, Any], list[str]]:
    evaluated = evaluate_boxes(nusc, subject.results, split, output)
    truth, found = (table_of(boxes, frames.tokens) for boxes in (evaluated.truth, evaluated.found))
    content, parts = scores_of(evaluated.metrics, truth, found, frames, scope.groups, with_scenes=scope.with_scenes)
    tables = [evaluated.metrics.table(), *(_table(name, own) for name, own in parts.items())]
    if scope.markers is not None:
        least = content["operating_scores"]
        write_markers(scope.markers, nusc, evaluated, frames, least, scope.base_frame)
    if subject.drives is not None:
        delays = _in_time(nusc, subject.drives, split, scope, frames, truth)
        content["latency_aware"] = {
            "published": subject.drives.published,
            "camera": subject.drives.camera,
            "carry": scope.carry,
            **delays[0].to_dict(),
            "delays": [_point(entry) for entry in delays],
        }
        tables.append(_delay_table(evaluated.metrics, delays, subject.drives, carry=scope.carry))
    return evaluated.metrics, content, tables


def _in_time(
    nusc: NuScenes, drives: RecordedDrives, split: str, scope: Scope, frames: Frames, truth: BoxTable
) -> list[InTime]:
    """As it was, and had all come later by each of the delays."""
    return [
        score_in_time(nusc, drives, truth, frames, split, carry=scope.carry, extra_delay_ms=delay)
        for delay in dict.fromkeys((0.0, *scope.extra_delays_ms))
    ]


def _point(entry: InTime) -> dict[str, Any]:
    return {name: value for name, value in entry.to_dict().items() if name != "metrics"}


def _delay_table(official: Metrics, delays: list[InTime], drives: RecordedDrives, *, carry: bool) -> str:
    how = "carried on by their velocity" if carry else "as they were"
    lines = [
        f"what was there in time (published by {drives.published}; boxes {how}); without latency NDS "
        f"{official.nds:.3f}, mAP {official.mean_ap:.3f}",
        f"{'extra delay [ms]':<20}{'NDS':>8}{'mAP':>8}{'age p50':>10}{'age p95':>10}{'without':>9}",
    ]
    for entry in delays:
        ages = entry.to_dict()["age_ms"]
        cells = "".join(f"{ages.get(share, float('nan')):>10.0f}" for share in ("p50", "p95"))
        scores = f"{entry.metrics.nds:>8.3f}{entry.metrics.mean_ap:>8.3f}"
        lines.append(f"{entry.extra_delay_ms:<20g}{scores}{cells}{entry.without:>9}")
    return "\n".join(lines)


def _table(group: str, parts: dict[str, Scored]) -> str:
    """One line per part: boxes of ground truth; NDS, mAP and AP of the classes that it has."""
    lines = [f"{group:<24}{'boxes':>8}{'NDS':>8}{'mAP':>8}  AP of the classes there are"]
    for name, part in parts.items():
        classes = ", ".join(f"{kind} {part.metrics.class_ap[kind]:.2f}" for kind in part.boxes)
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in (part.nds, part.mean_ap))
        lines.append(f"{name[:23]:<24}{sum(part.boxes.values()):>8}{cells}  {classes}")
    return "\n".join(lines)

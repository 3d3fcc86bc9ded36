"""Sections of the page, as HTML."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.page.html import table
from training.report import plots
from training.score.read import Report
from training.score.schema import BANDS, REGIONS, SCENES, WHOLE

_UNITS = {"trans_err": "m", "scale_err": "1 - IoU", "orient_err": "rad", "vel_err": "m/s", "attr_err": "1 - share"}


def summary(report: Report) -> str:
    """What was scored, and the means."""
    source = report.content["source"]
    frames, scenes = len(report.frames["token"]), len(report.scenes)
    where = html.escape(f"{source['version']}, split {source['split']}: {frames} frames of {scenes} scenes")
    if not report.is_scored:
        return f"<p>{where}. There was no ground truth: detections are counted, not scored.</p>"
    whole = report.content[WHOLE]
    errors = [f"m{short} [{_UNITS[name]}]" for name, short in ERROR_NAMES.items()]
    cells = [_cell(whole["nds"]), _cell(whole["mean_ap"]), *(_cell(whole["tp_errors"][name]) for name in ERROR_NAMES)]
    official = table(["NDS", "mAP", *errors], [cells], caption="by the nuScenes devkit")
    return f"<p>{where}.</p>{official}{_in_time(report)}"


def _in_time(report: Report) -> str:
    """Scores of what had been published in time, where it is known, by a delay on top."""
    rows = [
        [f"{point['extra_delay_ms']:g}", _cell(point["nds"]), _cell(point["mean_ap"])]
        for point in report.content.get("latency_aware", {}).get("delays", [])
    ]
    caption = "latency-aware: each instant is scored with the newest output that was there by then"
    return table(["extra delay [ms]", "NDS", "mAP"], rows, caption=caption) if rows else ""


def gate(content: Mapping[str, Any]) -> str:
    """Rows of a gate, failures first."""
    rows = sorted(content["rows"], key=lambda row: row["passes"])
    cells = [
        [
            row["verdict"],
            row["title"],
            _cell(row["value"]),
            row["limit"],
            _cell(row["baseline"]),
            _cell(row["worse"]),
            "" if row["interval"] is None else f"{row['interval'][0]:+.3f} ... {row['interval'][1]:+.3f}",
            row["note"],
        ]
        for row in rows
    ]
    header = ["verdict", "criterion", "value", "limit", "baseline", "worse by", "interval over scenes", "note"]
    caption = f"{content['gate']}: {'passed' if content['passed'] else 'failed'}"
    kinds = ["fail" if not row["passes"] else row["verdict"] for row in rows]
    return table(header, cells, caption=caption, kinds=kinds)


def classes(report: Report) -> str:
    """AP and errors by class; AP by class and part; curves."""
    if not report.is_scored:
        return ""
    whole = report.content[WHOLE]
    there = [name for name in CLASS_NAMES if name in report.content["curves"][WHOLE]]
    rows = [
        [
            name,
            _cell(whole["class_ap"][name]),
            *(_cell(whole["class_tp_errors"][name][error]) for error in ERROR_NAMES),
            f"{report.content['operating_scores'][name]:.2f}",
        ]
        for name in there
    ]
    header = ["class", "AP", *(f"{short} [{_UNITS[name]}]" for name, short in ERROR_NAMES.items()), "best score"]
    caption = "best score: above it precision and recall at 2 m are best together"
    figures = [plots.class_aps(report), *plots.curves(report)]
    return table(header, rows, caption=caption) + f'<div class="plots">{"".join(figures)}</div>'


def parts(report: Report) -> str:
    """A table each of bands, regions and scenes: boxes, NDS, mAP, AP by class."""
    tables = []
    for group in (BANDS, REGIONS, SCENES):
        own = report.content.get(group, {})
        named = [name for name in CLASS_NAMES if any(name in part["boxes"] for part in own.values())]
        rows = [
            [
                name,
                str(sum(part["boxes"].values())),
                _cell(part["nds"]),
                _cell(part["mean_ap"]),
                *(_cell(part["metrics"]["class_ap"][entry] if entry in part["boxes"] else None) for entry in named),
            ]
            for name, part in own.items()
        ]
        if rows:
            tables.append(
                table([group, "boxes", "NDS", "mAP", *named], rows, caption="AP by class; - where there is none")
            )
    return "".join(tables)


def detections(report: Report) -> str:
    """What detections show without ground truth."""
    content = report.content["detections"]
    boxes, flickers = content["flicker"]["boxes"], content["flicker"]["flickers"]
    frames = max(len(report.frames["token"]), 1)
    rows = []
    for name, counts in content["counts"].items():
        total, flickering = sum(boxes.get(name, [0])), sum(flickers.get(name, [0]))
        share = f"{flickering / total:.3f}" if total else "-"
        rows.append([name, f"{sum(counts) / frames:.2f}", str(max(counts)), share])
    least = f"boxes with a score of at least {content['min_score']:g}"
    caption = f"{least}; flicker: in or out for a single frame, share of boxes"
    figures = [plots.score_histograms(report), *(plots.boxes_over_time(report, scene) for scene in report.scenes[:12])]
    header = ["class", "boxes in a frame, mean", "most", "flicker"]
    return table(header, rows, caption=caption) + f'<div class="plots">{"".join(figures)}</div>'


def timing(content: Mapping[str, Any]) -> str:
    """Latency by stage and over time, and drops, where they are known."""
    stages = content.get("latency_ms")
    if not isinstance(stages, dict) or not stages:
        return ""
    kinds = [kind for kind in ("p50", "p95", "p99", "max", "count") if all(kind in entry for entry in stages.values())]
    rows = [
        [stage, *(f"{entry[kind]:.0f}" if kind == "count" else f"{entry[kind]:.1f}" for kind in kinds)]
        for stage, entry in stages.items()
    ]
    header = ["stage", *(f"{kind} [ms]" if kind != "count" else "sets" for kind in kinds)]
    dropped = [[str(reason), str(count)] for reason, count in content.get("drops", {}).items()]
    sent, lost = content.get("sets_sent"), content.get("sets_lost")
    words = f"<p>{sent} sets were sent, {lost} of them were not answered.</p>" if isinstance(sent, int) else ""
    drops = table(["dropped, by reason", "sets"], dropped) if dropped else ""
    figures = [plots.latency(stages), plots.timeline(content.get("timeline", []))]
    return words + table(header, rows) + drops + f'<div class="plots">{"".join(figures)}</div>'


def worst_frames(report: Report, count: int) -> list[int]:
    """Numbers of the frames with most missed and false boxes; without ground truth with most boxes; worst first."""
    counts = report.content.get("frame_counts")
    kinds = [counts["missed"], counts["false"]] if counts else [report.content["detections"]["counts"]]
    total = np.zeros(len(report.frames["token"]))
    for by_class in kinds:
        for values in by_class.values():
            total += np.array(values)
    return [int(number) for number in np.argsort(-total, kind="stable")[:count]]


def frame_words(report: Report, number: int) -> str:
    """What is missed and false in a frame, by class, as text."""
    counts = report.content.get("frame_counts") or {"found": report.content["detections"]["counts"]}
    words = []
    for kind in ("missed", "false") if "missed" in counts else ("found",):
        own = {name: values[number] for name, values in counts[kind].items() if values[number]}
        listed = ", ".join(f"{name} {value}" for name, value in own.items()) or "none"
        words.append(f"{kind} {sum(own.values())}: {listed}")
    return "; ".join(words)


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def columns(parts: Sequence[str]) -> str:
    """Pictures of cameras, side by side."""
    return f'<div class="cameras">{"".join(parts)}</div>'

"""Plots of a report: precision over recall, AP by class and distance, scores, latency by stage and over time."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.page.plots import COLOURS, small_figure, svg_of
from training.score.curves import RECALLS
from training.score.read import Report
from training.score.schema import BANDS, WHOLE

_BAR_INCHES = 0.22  # height of a bar with the space around it


def curves(report: Report) -> list[str]:
    """A plot per class that there is: precision over recall at each threshold."""
    plots = []
    for name, by_threshold in report.content["curves"][WHOLE].items():
        figure = small_figure()
        axes = figure.subplots()
        for colour, (threshold, curve) in zip(COLOURS, by_threshold.items(), strict=False):
            reached = np.array(curve["score"]) > 0
            label = f"{threshold} m, AP {curve['ap']:.2f}"
            axes.plot(RECALLS[reached], np.array(curve["precision"])[reached], color=colour, linewidth=1.5, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall [share of objects]", ylabel="precision [share of boxes]")
        axes.set_title(name)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=7, loc="lower left")
        plots.append(svg_of(figure, f"precision over recall of {name}"))
    return plots


def class_aps(report: Report) -> str:
    """AP of each class that there is, whole and by distance band."""
    bands = report.content.get(BANDS, {})
    rows: dict[str, Mapping[str, float]] = {"all": report.content[WHOLE]["class_ap"]}
    rows |= {name: part["metrics"]["class_ap"] for name, part in bands.items()}
    there = {"all": set(report.content["curves"][WHOLE])} | {name: set(part["boxes"]) for name, part in bands.items()}
    classes = [name for name in CLASS_NAMES if name in there["all"]]
    figure = small_figure(0.8 + _BAR_INCHES * len(rows) * len(classes) * 0.75)
    axes = figure.subplots()
    places, width = np.arange(len(classes)), 0.8 / len(rows)
    for number, (part, precisions) in enumerate(rows.items()):
        values = [precisions[name] if name in there[part] else np.nan for name in classes]
        offset = (number - (len(rows) - 1) / 2) * width
        axes.barh(places + offset, values, width, color=COLOURS[number % len(COLOURS)], label=part)
    axes.set(yticks=places, yticklabels=classes, xlim=(0, 1), xlabel="AP, mean over thresholds [0...1]")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), fontsize=7, loc="outside upper right", ncols=2)
    return svg_of(figure, "AP by class and distance")


def score_histograms(report: Report) -> str:
    """How many detections have which score, of all classes."""
    counts = np.array(list(report.content["detections"].get("score_histograms", {}).values()))
    if not len(counts):
        return ""
    total = counts.sum(axis=0)
    figure = small_figure()
    axes = figure.subplots()
    axes.bar((np.arange(len(total)) + 0.5) / len(total), total, 0.9 / len(total), color=COLOURS[0])
    axes.set(
        xlim=(0, 1), xlabel="score [0...1]", ylabel="detections [boxes]", yscale="log", title="scores of all boxes"
    )
    return svg_of(figure, "how many detections have which score")


def boxes_over_time(report: Report, scene: str) -> str:
    """Ground truth, missed and false boxes, or only detections, of a scene."""
    rows = np.flatnonzero(np.array(report.frames["scene"]) == scene)
    seconds = (np.array(report.frames["stamp_us"])[rows] - report.frames["stamp_us"][rows[0]]) / 1e6
    kinds = report.content.get("frame_counts") or {"found": report.content["detections"]["counts"]}
    figure = small_figure()
    axes = figure.subplots()
    for colour, (kind, by_class) in zip((COLOURS[2], COLOURS[0], COLOURS[5], COLOURS[1]), kinds.items(), strict=False):
        total = np.array([by_class[name] for name in by_class]).sum(axis=0)[rows] if by_class else np.zeros(len(rows))
        axes.plot(seconds, total, color=colour, marker=".", linewidth=1.2, label=kind)
    axes.set(xlabel="time in the scene [s]", ylabel="boxes", title=scene, ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    return svg_of(figure, f"boxes over time in {scene}")


def latency(stages: Mapping[str, Mapping[str, float]]) -> str:
    """Percentiles of the latency of each stage."""
    kinds = [kind for kind in ("p50", "p95", "p99", "max") if all(kind in entry for entry in stages.values())]
    figure = small_figure(0.8 + _BAR_INCHES * len(kinds) * len(stages) * 0.75)
    axes = figure.subplots()
    places, width = np.arange(len(stages)), 0.8 / max(len(kinds), 1)
    for number, kind in enumerate(kinds):
        values = [entry[kind] for entry in stages.values()]
        axes.barh(places + (number - (len(kinds) - 1) / 2) * width, values, width, color=COLOURS[number], label=kind)
    axes.set(yticks=places, yticklabels=list(stages), xlabel="latency [ms]")
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.legend(fontsize=7)
    return svg_of(figure, "latency by stage")


def timeline(moments: Sequence[Mapping[str, Any]]) -> str:
    """Latency of each set by the time of its images, and the sets that were dropped."""
    if not moments:
        return ""
    start = min(int(moment["stamp_ns"]) for moment in moments)
    figure = small_figure()
    axes = figure.subplots()
    answered = [moment for moment in moments if "drop_reason" not in moment and moment.get("latency_ms") is not None]
    seconds = [(int(moment["stamp_ns"]) - start) / 1e9 for moment in answered]
    axes.plot(
        seconds, [moment["latency_ms"] for moment in answered], ".", color=COLOURS[0], markersize=4, label="answered"
    )
    dropped = [(int(moment["stamp_ns"]) - start) / 1e9 for moment in moments if "drop_reason" in moment]
    axes.plot(dropped, np.zeros(len(dropped)), "x", color=COLOURS[5], markersize=5, label=f"dropped ({len(dropped)})")
    axes.set(xlabel="time of the images [s]", ylabel="oldest image to publish [ms]", title="latency set by set")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    return svg_of(figure, "latency of each set over time")

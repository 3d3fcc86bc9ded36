"""What a criterion asks of detections alone: numbers, flicker, scores, areas where nothing can be."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.gate.criteria import Criterion
from training.gate.records import Unmeasurable, Value
from training.score.curves import Floats
from training.score.read import Report, read_json

_VEHICLE = "vehicle"


def flicker_of(report: Report, criterion: Criterion) -> Value:
    """Flickers by box, of frames that have one before and after."""
    flicker = report.content["detections"].get("flicker", {})

    def total(kind: str, weights: Floats | None) -> float:
        by_class = flicker.get(kind, {})
        names = [criterion.class_name] if criterion.class_name else list(by_class)
        counts = sum((np.array(by_class[name], dtype=float) for name in names if name in by_class), np.zeros(1))
        return float(counts.sum() if weights is None else (counts * weights).sum())

    def measure(weights: Floats | None) -> float | None:
        boxes = total("boxes", weights)
        return total("flickers", weights) / boxes if boxes else None

    return measure


def boxes_per_frame(report: Report, criterion: Criterion) -> NDArray[np.float64]:
    """Detections above the report's least score, by frame."""
    counts = report.content["detections"].get("counts", {})
    names = [criterion.class_name] if criterion.class_name else list(counts)
    total = np.zeros(len(report.frames["scene"]))
    for name in names:
        total += np.array(counts.get(name, 0), dtype=float)
    return total


def score_shift(report: Report, baseline: Report, criterion: Criterion) -> float | None:
    """Jensen-Shannon distance (0 the same, 1 nothing in common) of scores, of one class or of all with their classes.

    None where one of the reports has no detection.
    """
    ours, theirs = (_histogram(entry, criterion.class_name) for entry in (report, baseline))
    if not ours.sum() or not theirs.sum():
        return None
    first, second = ours / ours.sum(), theirs / theirs.sum()
    middle = (first + second) / 2
    divergence = sum(_relative_entropy(entry, middle) for entry in (first, second)) / 2
    return float(np.sqrt(max(divergence, 0.0)))


def _relative_entropy(values: Floats, base: Floats) -> float:
    """Of two distributions [bit]."""
    there = values > 0
    return float((values[there] * np.log2(values[there] / base[there])).sum())


def _histogram(report: Report, class_name: str | None) -> Floats:
    histograms = report.content["detections"].get("score_histograms", {})
    bins = max((len(values) for values in histograms.values()), default=1)
    names = [class_name] if class_name else CLASS_NAMES
    return np.array([histograms.get(name, [0] * bins) for name in names], dtype=float).reshape(-1)


def ghosts_of(report: Report, criterion: Criterion) -> tuple[int, str]:
    """How many boxes of the report's results lie in an area, and the worst frame in words.

    Raises:
        Unmeasurable: The results are not beside the report.
    """
    assert criterion.area is not None, "the gate checks it"
    path = report.results_path
    if not path.is_file():
        raise Unmeasurable(f"{criterion.metric} needs the results beside the report, but there is no {path}")
    try:
        return _ghosts(read_json(path)["results"], report, criterion)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise Unmeasurable(f"{path} holds what is not a box of nuScenes: {type(error).__name__} {error}") from error


def _ghosts(results: Mapping[str, Any], report: Report, criterion: Criterion) -> tuple[int, str]:
    assert criterion.area is not None, "the gate checks it"
    frames = report.frames
    counts: dict[int, int] = {}
    for number, token in enumerate(frames["token"]):
        boxes = [box for box in results.get(token, []) if _counts(box, criterion)]
        if not boxes:
            continue
        centres = np.array([box["translation"][:2] for box in boxes], dtype=float)
        if criterion.frame == _VEHICLE:
            centres = _to_vehicle(centres, frames["ego"][number])
        if inside := int(criterion.area.contains_points(centres).sum()):
            counts[number] = inside
    if not counts:
        return 0, ""
    worst = max(counts, key=lambda number: counts[number])
    return sum(counts.values()), f"{len(counts)} frames, most in {frames['scene'][worst]}, {frames['token'][worst]}"


def _counts(box: Mapping[str, Any], criterion: Criterion) -> bool:
    of_class = criterion.class_name in (None, box["detection_name"])
    return of_class and float(box["detection_score"]) >= criterion.score


def _to_vehicle(centres: Floats, pose: tuple[float, float, float]) -> Floats:
    x, y, heading = pose
    cos, sin = np.cos(heading), np.sin(heading)
    offsets = centres - np.array([x, y])
    return np.stack([cos * offsets[:, 0] + sin * offsets[:, 1], cos * offsets[:, 1] - sin * offsets[:, 0]], axis=1)

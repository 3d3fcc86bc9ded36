"""What detections tell without ground truth: how many there are, how sure they are, and whether they flicker.

A box flickers where it is in one frame only, or where it is missing from one frame between two that have it. Boxes of
one class in two frames are the same object where the earlier one, carried on by its velocity, lies within 2 m of the
later one. Whatever drives in or out of range is in several frames in a row, and does not count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUM_CLASSES
from training.evaluate.results import Results
from training.score.boxes import BoxTable, yaw_of_quaternions
from training.score.frames import Frames

SAME_OBJECT = 2.0  # [m]
SCORE_BINS = 20  # of 0...1
_LABELS = {name: label for label, name in enumerate(CLASS_NAMES)}


def found_in(results: Results, frames: Frames) -> BoxTable:
    """All boxes of a results file in these frames.

    Raises:
        ValueError: A frame has no entry, or an entry is not a box.
    """
    missing = [token for token in frames.tokens if token not in results["results"]]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(frames.tokens)} samples have no detections, for example {missing[0]}; "
            "run the detector on the whole split, and give an empty record where it found nothing"
        )
    rows = [(number, box) for number, token in enumerate(frames.tokens) for box in results["results"][token]]
    frame = np.array([number for number, _ in rows], dtype=np.int64)
    boxes = [box for _, box in rows]
    try:
        centre = _column([box["translation"][:2] for box in boxes], 2)
        return BoxTable(
            frame=frame,
            label=np.array([_LABELS[box["detection_name"]] for box in boxes], dtype=np.int64),
            centre=centre,
            size=_column([box["size"] for box in boxes], 3),
            yaw=yaw_of_quaternions(_column([box["rotation"] for box in boxes], 4)),
            velocity=_column([box["velocity"] for box in boxes], 2),
            attribute=np.array([str(box.get("attribute_name", "")) for box in boxes], dtype=np.str_),
            score=_column([box["detection_score"] for box in boxes], 1)[:, 0],
            distance=np.linalg.norm(centre - frames.ego[frame, :2], axis=1),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"results hold what is not a box of nuScenes: {type(error).__name__} {error}") from error


def _column(values: Sequence[Any], width: int) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64).reshape(len(values), width)


def detections_of(found: BoxTable, frames: Frames, min_score: float) -> dict[str, Any]:
    """Plain values for JSON.

    Args:
        found: All detections.
        frames: They are in.
        min_score: Least score of a box that counts; score histograms have all.
    """
    confident = found.take(found.score >= min_score)
    counts = _count(confident.frame, confident.label, len(frames.tokens))
    boxes, flickers = _flicker(confident, frames)
    bins = np.clip((found.score * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    histograms = np.zeros((NUM_CLASSES, SCORE_BINS), dtype=np.int64)
    np.add.at(histograms, (found.label, bins), 1)
    return {
        "min_score": min_score,
        "counts": _by_class(counts.T),
        "score_histograms": _by_class(histograms),
        "flicker": {"boxes": _by_class(boxes.T), "flickers": _by_class(flickers.T)},
    }


def _by_class(rows: NDArray[np.int64]) -> dict[str, list[int]]:
    """The rows of classes that have any."""
    return {name: row.tolist() for name, row in zip(CLASS_NAMES, rows, strict=True) if row.any()}


def _count(place: NDArray[np.int64], label: NDArray[np.int64], num_places: int) -> NDArray[np.int64]:
    counts = np.bincount(place * NUM_CLASSES + label, minlength=num_places * NUM_CLASSES)
    return counts.reshape(num_places, NUM_CLASSES).astype(np.int64)


def _flicker(found: BoxTable, frames: Frames) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Boxes that have a frame before and after, and how often one was in or out for a single frame; (scenes, classes).

    Args:
        found: Boxes by frame.
        frames: Scene by scene in the order of time.
    """
    by_frame = np.searchsorted(found.frame, np.arange(len(frames.tokens) + 1))
    boxes, flickers = (np.zeros((len(frames.scenes), NUM_CLASSES), dtype=np.int64) for _ in range(2))
    inner = np.flatnonzero(frames.scene[2:] == frames.scene[:-2]) + 1
    for middle in inner:
        before, now, after = (
            found.take(np.arange(by_frame[place], by_frame[place + 1])) for place in (middle - 1, middle, middle + 1)
        )
        seconds = (frames.stamp_us[middle : middle + 2] - frames.stamp_us[middle - 1 : middle + 1]) / 1e6
        to_now, to_after = _same(before, now, seconds[0]), _same(now, after, seconds[1])
        over = _same(before, after, float(seconds.sum()))
        alone = ~to_now.any(axis=0) & ~to_after.any(axis=1)
        gap = over.any(axis=1) & ~to_now.any(axis=1)
        scene = frames.scene[middle]
        np.add.at(boxes[scene], now.label, 1)
        np.add.at(flickers[scene], np.concatenate([now.label[alone], before.label[gap]]), 1)
    return boxes, flickers


def _same(earlier: BoxTable, later: BoxTable, seconds: float) -> NDArray[np.bool_]:
    """Which boxes are one object (earlier, later): each takes the nearest free one of its class."""
    carried = earlier.centre + np.nan_to_num(earlier.velocity) * seconds
    distances = np.linalg.norm(carried[:, None] - later.centre[None], axis=-1)
    distances[earlier.label[:, None] != later.label[None]] = np.inf
    same = np.zeros(distances.shape, dtype=np.bool_)
    for place in np.argsort(distances, axis=None):
        row, column = np.unravel_index(place, distances.shape)
        if distances[row, column] >= SAME_OBJECT:
            break
        if not same[row].any() and not same[:, column].any():
            same[row, column] = True
    return same

"""Detections matched to ground truth by the rules of the nuScenes devkit, for all classes and thresholds at once.

In each frame and class the detections take, best score first, the nearest ground truth that is still free, where it is
nearer than the threshold. The devkit does so box by box in Python; this does it frame by frame with arrays, and keeps
for each detection whether it hit, so that whatever is counted later (parts, curves, resampled scenes) needs no boxes.
"""

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUM_CLASSES
from training.score.boxes import BoxTable
from training.score.by_class import ERROR_THRESHOLD, NUM_ERRORS, THRESHOLDS, ClassMatches

_HALF_TURN_CLASS = CLASS_NAMES.index("barrier")  # looks the same from both sides


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Detections, and what they hit; all arrays but `truth` have a row each."""

    frame: NDArray[np.int64]  # number of the sample
    label: NDArray[np.int64]  # place in CLASS_NAMES
    score: NDArray[np.float64]  # 0...1
    hits: NDArray[np.bool_]  # (N, 4) by THRESHOLDS
    errors: NDArray[np.float64]  # (N, 5) by ERROR_NAMES, of hits at 2 m; NaN of others and where undefined
    truth: NDArray[np.int64]  # (frames, classes) boxes of ground truth

    def take(self, rows: NDArray[Any]) -> Self:
        """Some of the detections, by mask or number; the ground truth stays."""
        chosen = {column.name: getattr(self, column.name)[rows] for column in fields(self) if column.name != "truth"}
        return type(self)(truth=self.truth, **chosen)


def by_class(matches: Matches, scenes: NDArray[np.int64]) -> dict[str, ClassMatches]:
    """The matches of each class by scene.

    Args:
        matches: Of the whole or a part.
        scenes: Number of the scene of each frame, from 0 on.
    """
    num_scenes = int(scenes.max(initial=-1)) + 1
    order = np.lexsort((-np.arange(len(matches.score)), -matches.score, scenes[matches.frame]))
    found = matches.take(order)
    classes = {}
    for label, name in enumerate(CLASS_NAMES):
        own = found.take(found.label == label)
        truth = np.bincount(scenes, weights=matches.truth[:, label], minlength=num_scenes)
        classes[name] = ClassMatches(
            scene=scenes[own.frame],
            score=own.score,
            hits=own.hits,
            errors=own.errors,
            truth=truth.astype(np.int64),
        )
    return classes


def match(truth: BoxTable, found: BoxTable, num_frames: int) -> Matches:
    """Match the detections of each frame and class to its ground truth."""
    taken = rows_taken(truth, found)
    return Matches(
        frame=found.frame,
        label=found.label,
        score=found.score,
        hits=taken >= 0,
        errors=_errors(truth, found, taken[:, ERROR_THRESHOLD]),
        truth=_counts(truth, num_frames),
    )


def rows_taken(truth: BoxTable, found: BoxTable) -> NDArray[np.int64]:
    """The row of the ground truth that each detection hits (N, 4) by THRESHOLDS; -1 for none."""
    order = np.lexsort((-np.arange(len(found)), -found.score, _group_of(found)))  # the devkit's order of equal scores
    taken = np.full((len(found), len(THRESHOLDS)), -1)  # row of the ground truth that each one hit
    truth_rows = np.argsort(_group_of(truth), kind="stable")
    truth_groups, found_groups = _group_of(truth)[truth_rows], _group_of(found)[order]
    for group in np.intersect1d(truth_groups, found_groups):
        here = truth_rows[slice(*np.searchsorted(truth_groups, (group, group + 1)))]
        ours = order[slice(*np.searchsorted(found_groups, (group, group + 1)))]
        offsets = found.centre[ours, None] - truth.centre[None, here]
        distances = np.linalg.norm(offsets, axis=-1)
        for place, threshold in enumerate(THRESHOLDS):
            for row, column in _greedy(distances, threshold):
                taken[ours[row], place] = here[column]
    return taken


def _group_of(boxes: BoxTable) -> NDArray[np.int64]:
    return boxes.frame * NUM_CLASSES + boxes.label


def _greedy(distances: NDArray[np.float64], threshold: float) -> list[tuple[int, int]]:
    """Pairs of row and column; rows choose in turn the nearest free column, where it is nearer than the threshold."""
    pairs: list[tuple[int, int]] = []
    free = distances.copy()
    for row in np.flatnonzero((distances < threshold).any(axis=1)):
        column = int(free[row].argmin())
        if free[row, column] < threshold:
            pairs.append((int(row), column))
            free[:, column] = np.inf
    return pairs


def _counts(boxes: BoxTable, num_frames: int) -> NDArray[np.int64]:
    counts = np.bincount(_group_of(boxes), minlength=num_frames * NUM_CLASSES)
    return counts.reshape(num_frames, NUM_CLASSES).astype(np.int64)


def _errors(truth: BoxTable, found: BoxTable, taken: NDArray[np.int64]) -> NDArray[np.float64]:
    """Errors (N, 5) of detections against the rows that they hit, NaN where that is -1."""
    errors = np.full((len(found), NUM_ERRORS), np.nan)
    hit = taken >= 0
    ours, theirs = found.take(hit), truth.take(taken[hit])
    shared = np.minimum(ours.size, theirs.size).prod(axis=1)
    union = ours.size.prod(axis=1) + theirs.size.prod(axis=1) - shared
    period = np.where(ours.label == _HALF_TURN_CLASS, np.pi, 2 * np.pi)
    turned = (theirs.yaw - ours.yaw + period / 2) % period - period / 2
    errors[hit] = np.column_stack(
        [
            np.linalg.norm(ours.centre - theirs.centre, axis=1),
            1 - shared / union,
            np.abs(turned),
            np.linalg.norm(ours.velocity - theirs.velocity, axis=1),
            np.where(theirs.attribute == "", np.nan, ours.attribute != theirs.attribute),
        ]
    )
    return errors

"""From which score on a detection is a label: given, or found on a split that has annotations."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUM_CLASSES
from training.label.records import FrameBoxes

MATCH_DISTANCE = 2.0  # [m] between centres, the nuScenes metric's for its errors
DEFAULT = 0.3  # of a focal loss trained detector, without anything to calibrate with

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ClassQuality:
    """How good the boxes of a class are at a threshold."""

    threshold: float
    found: int  # boxes at or above it
    right: int  # those of them that are objects
    objects: int

    @property
    def precision(self) -> float:
        return self.right / self.found if self.found else float("nan")

    @property
    def recall(self) -> float:
        return self.right / self.objects if self.objects else float("nan")


def given_thresholds(common: float, by_class: Mapping[str, float]) -> np.ndarray:
    """Thresholds (10,) of all classes: a common one, but for those that have one of their own.

    Raises:
        ValueError: A name is not a class, or a threshold is not in (0, 1].
    """
    unknown = [name for name in by_class if name not in CLASS_NAMES]
    if unknown:
        raise ValueError(f"thresholds names '{unknown[0]}', which is not a class; classes are {', '.join(CLASS_NAMES)}")
    for name, value in {"threshold": common, **by_class}.items():
        if not 0 < value <= 1:
            raise ValueError(f"thresholds must be above 0 and at most 1, but {name} is {value}")
    return np.array([by_class.get(name, common) for name in CLASS_NAMES])


def calibrated_thresholds(
    found: Sequence[FrameBoxes], truth: Sequence[FrameBoxes], precision: float | None
) -> np.ndarray:
    """Thresholds (10,) for a precision.

    Args:
        found: Detections of frames, of any score.
        truth: Annotations of the same frames.
        precision: The lowest threshold is taken from which on this share of a class's boxes are objects. Where a class
            reaches it at no threshold, and with None, that of the best F1 score is taken. A class without annotations
            or right detections keeps the default.
    """
    thresholds = np.full(NUM_CLASSES, DEFAULT)
    for label, name in enumerate(CLASS_NAMES):
        scores, right, objects = matched(found, truth, label)
        if not right.any():
            _LOG.warning("no %s is found there, so its threshold stays %g", name, DEFAULT)
            continue
        hits = right.cumsum()
        share = hits / np.arange(1, len(hits) + 1)
        if precision is not None and (share >= precision).any():
            place = np.flatnonzero(share >= precision)[-1]
        else:
            place = int((2 * hits / (np.arange(1, len(hits) + 1) + objects)).argmax())
            if precision is not None:
                _LOG.warning("%s reaches a precision of %.2f at most; it takes that of the best F1", name, share.max())
        thresholds[label] = scores[place]
    return thresholds


def matched(found: Sequence[FrameBoxes], truth: Sequence[FrameBoxes], label: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores of a class's boxes, best first, which of them are objects, and how many objects there are.

    As in the nuScenes metric each box, best first, takes the nearest object of its frame that is not taken.
    """
    entries: list[tuple[float, bool]] = []
    objects = 0
    for boxes, real in zip(found, truth, strict=True):
        places = real.boxes[real.labels == label, :2].copy()
        objects += len(places)
        rows = np.flatnonzero(boxes.labels == label)
        for row in rows[np.argsort(-boxes.scores[rows], kind="stable")]:
            gaps = np.linalg.norm(places - boxes.boxes[row, :2], axis=1)
            hit = bool(len(gaps)) and bool(gaps.min() < MATCH_DISTANCE)
            if hit:
                places[gaps.argmin()] = np.inf
            entries.append((float(boxes.scores[row]), hit))
    entries.sort(key=lambda entry: -entry[0])
    return np.array([s for s, _ in entries]), np.array([hit for _, hit in entries], dtype=bool), objects


def quality_of(
    found: Sequence[FrameBoxes], truth: Sequence[FrameBoxes], thresholds: np.ndarray
) -> dict[str, ClassQuality]:
    """Quality of boxes, all of which count, of each class that has boxes or objects."""
    qualities = {}
    for label, name in enumerate(CLASS_NAMES):
        scores, right, objects = matched(found, truth, label)
        if len(scores) or objects:
            qualities[name] = ClassQuality(
                threshold=float(thresholds[label]), found=len(scores), right=int(right.sum()), objects=objects
            )
    return qualities

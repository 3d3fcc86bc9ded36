"""Scores of matched detections: of the whole, a part or a scene, as metrics of the devkit's kind and as curves."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.evaluate.metrics import Metrics
from training.score.by_class import ERROR_THRESHOLD, THRESHOLDS, ClassMatches
from training.score.curves import Curve, Floats, nds_of


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Metrics of some of the boxes of a split; the devkit's own means count classes without ground truth as missed."""

    boxes: dict[str, int]  # boxes of ground truth by class, of the classes that there are
    found: dict[str, int]  # detections by class, of the classes that there are
    metrics: Metrics

    @property
    def mean_ap(self) -> float | None:
        """Mean AP over the classes that there are; None without any."""
        found = [self.metrics.class_ap[name] for name in self.boxes]
        return sum(found) / len(found) if found else None

    @property
    def nds(self) -> float | None:
        """The nuScenes detection score over the classes that there are: official where all are; None without any."""
        if self.mean_ap is None:
            return None
        means = {}
        for error in ERROR_NAMES:
            values = [self.metrics.class_tp_errors[name][error] for name in self.boxes]
            known = [value for value in values if value is not None]
            means[error] = sum(known) / len(known) if known else 1.0
        return nds_of(self.mean_ap, means)


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Curves of a class by threshold [m], and its errors."""

    curves: Mapping[float, Curve]
    errors: dict[str, float | None]

    @property
    def average_precision(self) -> float:
        """Mean over the thresholds."""
        return float(np.mean([curve.average_precision for curve in self.curves.values()]))


def class_scores(matches: Mapping[str, ClassMatches], weights: Floats | None = None) -> dict[str, ClassScore]:
    """Score classes; scene s counts `weights[s]` times."""
    return {name: class_score(name, own, weights) for name, own in matches.items()}


def class_score(name: str, matches: ClassMatches, weights: Floats | None = None) -> ClassScore:
    """Score one class."""
    hits = [matches.at(place) for place in range(len(THRESHOLDS))]
    curves = {threshold: entry.curve(weights) for threshold, entry in zip(THRESHOLDS, hits, strict=True)}
    return ClassScore(curves=curves, errors=hits[ERROR_THRESHOLD].errors(name, weights))


def scored(
    matches: Mapping[str, ClassMatches], scores: Mapping[str, ClassScore], split: str, num_samples: int
) -> Scored:
    """Metrics of the scores of all classes."""
    class_ap = {name: score.average_precision for name, score in scores.items()}
    errors = {}
    for error in ERROR_NAMES:
        known = [value for name in CLASS_NAMES if (value := scores[name].errors[error]) is not None]
        errors[error] = float(np.mean(known))
    mean_ap = float(np.mean(list(class_ap.values())))
    metrics = Metrics(
        split=split,
        num_samples=num_samples,
        nds=nds_of(mean_ap, errors),
        mean_ap=mean_ap,
        tp_errors=errors,
        class_ap=class_ap,
        class_tp_errors={name: score.errors for name, score in scores.items()},
    )
    return Scored(
        boxes={name: own.num_truth for name, own in matches.items() if own.num_truth},
        found={name: len(own.score) for name, own in matches.items() if len(own.score)},
        metrics=metrics,
    )

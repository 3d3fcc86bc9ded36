"""The value of a score in a report: as it is, or with scenes counted by weights."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.gate.criteria import ERRORS, Criterion
from training.gate.records import Value
from training.score.by_class import ERROR_THRESHOLD, THRESHOLDS, ClassMatches
from training.score.curves import Floats, Hits, nds_of
from training.score.read import Report
from training.score.schema import BANDS, REGIONS, WHOLE


def truth_counts(report: Report, criterion: Criterion) -> int:
    """Boxes of ground truth that a criterion is about."""
    matches = _matches(report, criterion)
    names = [criterion.class_name] if criterion.class_name else CLASS_NAMES
    return sum(matches[name].num_truth for name in names)


def value_of(report: Report, criterion: Criterion) -> Value:
    """How to measure a score of a criterion that needs ground truth."""
    matches = _matches(report, criterion)
    names = (
        [criterion.class_name] if criterion.class_name else [name for name in CLASS_NAMES if matches[name].num_truth]
    )
    counted = _Counted({name: matches[name] for name in names})
    place = THRESHOLDS.index(criterion.threshold) if criterion.threshold is not None else None
    match criterion.metric:
        case "NDS":
            return counted.nds
        case "mAP" | "AP":
            return lambda weights: counted.mean_ap(weights, place)
        case "recall":
            precision = criterion.at_precision
            assert precision is not None, "the gate checks it"
            return lambda weights: counted.recall(weights, ERROR_THRESHOLD if place is None else place, precision)
        case error:
            return lambda weights: counted.error(weights, ERRORS[error])


def _classes(criterion: Criterion, matches: Mapping[str, ClassMatches]) -> list[str]:
    """The class; without one all of the protocol on the whole, as the devkit has it, in a part those that it has."""
    if criterion.class_name is not None:
        return [criterion.class_name]
    is_whole = criterion.band is criterion.region is criterion.scene is None
    return [name for name in CLASS_NAMES if is_whole or matches[name].num_truth]


def _matches(report: Report, criterion: Criterion) -> Mapping[str, ClassMatches]:
    if criterion.band is not None:
        return report.matches(BANDS, criterion.band)
    if criterion.region is not None:
        return report.matches(REGIONS, criterion.region)
    matches = report.matches(WHOLE)
    if criterion.scene is not None:
        scene = report.scenes.index(criterion.scene)
        return {name: own.of_scene(scene) for name, own in matches.items()}
    return matches


class _Counted:
    """Classes whose scores are averaged."""

    def __init__(self, matches: Mapping[str, ClassMatches]) -> None:
        self._matches = matches

    @cached_property
    def _hits(self) -> dict[str, list[Hits]]:
        return {name: [own.at(place) for place in range(len(THRESHOLDS))] for name, own in self._matches.items()}

    def _there(self, weights: Floats | None) -> list[str]:
        """Classes with ground truth in the scenes that count, and those without any at all, which count as missed."""
        return [
            name
            for name, own in self._matches.items()
            if not own.num_truth or weights is None or float(weights @ own.truth) > 0
        ]

    def _mean(self, values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def mean_ap(self, weights: Floats | None, place: int | None = None) -> float | None:
        places = range(len(THRESHOLDS)) if place is None else [place]
        return self._mean(
            [self._hits[name][entry].average_precision(weights) for name in self._there(weights) for entry in places]
        )

    def recall(self, weights: Floats | None, place: int, precision: float) -> float | None:
        return self._mean(
            [self._hits[name][place].curve(weights).recall_at(precision) for name in self._there(weights)]
        )

    def _errors(self, weights: Floats | None) -> list[dict[str, float | None]]:
        return [self._hits[name][ERROR_THRESHOLD].errors(name, weights) for name in self._there(weights)]

    def error(self, weights: Floats | None, error: str) -> float | None:
        return self._mean([errors[error] for errors in self._errors(weights)])

    def nds(self, weights: Floats | None) -> float | None:
        mean_ap = self.mean_ap(weights)
        if mean_ap is None:
            return None
        errors = self._errors(weights)
        means = {error: self._mean([entry[error] for entry in errors]) for error in ERROR_NAMES}
        return nds_of(mean_ap, {error: 1.0 if value is None else value for error, value in means.items()})

"""Precision over recall, AP and errors of matched detections, by the rules of the nuScenes devkit.

Frames may count several times, or not at all, which is what a bootstrap over scenes needs. Only hits are kept one by
one; of the misses between two hits it is enough to know how many there were in each scene.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bevdistill_ros.core.nuscenes import ERROR_NAMES

RECALLS = np.linspace(0.0, 1.0, 101)
MIN_PRECISION = 0.1
FIRST = 11  # the first recall that counts: above 0.1
_UNDEFINED = {"traffic_cone": ("orient_err", "vel_err", "attr_err"), "barrier": ("vel_err", "attr_err")}

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What precision and confidence are at each recall of RECALLS; 0 where the recall is not reached."""

    precision: Floats
    score: Floats

    @property
    def average_precision(self) -> float:
        """AP of the protocol: precision above 0.1 at recalls above 0.1, scaled to 0...1."""
        return average_precision(self.precision)

    def recall_at(self, precision: float) -> float:
        """Largest recall at which the precision is at least this; 0 where it never is."""
        reached = np.flatnonzero((self.precision >= precision) & (self.score > 0))
        return float(RECALLS[reached[-1]]) if len(reached) else 0.0


def average_precision(precision: Floats) -> float:
    """AP of the precision at RECALLS."""
    return float(np.maximum(precision[FIRST:] - MIN_PRECISION, 0).mean() / (1 - MIN_PRECISION))


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Points of a curve by rising recall."""

    used: NDArray[np.bool_]  # which hits count
    recall: Floats
    precision: Floats


NOTHING = Curve(precision=np.zeros(len(RECALLS)), score=np.zeros(len(RECALLS)))


class Hits:
    """Detections of one class at one threshold, ready to be counted with any weights of the scenes.

    Args:
        scene: Number of the scene of each detection (N,); in a scene the best come first.
        score: Its score (N,).
        hit: Whether it hit (N,).
        truth: Boxes of ground truth by scene (S,).
        errors: Errors of the detections (N, 5), where they are wanted.
    """

    def __init__(
        self,
        scene: NDArray[np.int64],
        score: Floats,
        hit: NDArray[np.bool_],
        truth: NDArray[np.int64],
        errors: Floats | None = None,
    ) -> None:
        order = np.lexsort((np.arange(len(score)), -scene, -score))  # as the devkit orders equal scores
        scene, score, hit = scene[order], score[order], hit[order]
        places = np.flatnonzero(hit)
        self._truth = truth
        self._scene, self._score = scene[places], score[places]
        self._errors = errors[order][places] if errors is not None else None
        # How many misses of each scene lie between a hit and the one before; the last row comes after all hits.
        between = np.searchsorted(places, np.flatnonzero(~hit))
        self._misses = np.zeros((len(places) + 1, len(truth)))
        np.add.at(self._misses, (between, scene[~hit]), 1)
        # The lowest score of each scene's misses there: the confidence that the devkit sees before the next hit.
        self._lowest = np.full(self._misses.shape, np.inf)
        np.minimum.at(self._lowest, (between, scene[~hit]), score[~hit])

    def average_precision(self, weights: Floats | None = None) -> float:
        """AP of the curve, which takes half the time of the curve."""
        points = self._points(self._weights(weights))
        return average_precision(np.interp(RECALLS, points.recall, points.precision, right=0.0)) if points else 0.0

    def curve(self, weights: Floats | None = None) -> Curve:
        """The curve, where scene s counts `weights[s]` times."""
        weights = self._weights(weights)
        points = self._points(weights)
        if points is None:
            return NOTHING
        own = self._score[points.used]
        lowest = np.minimum.accumulate(self._lowest[:, weights > 0].min(axis=1))
        before = np.minimum(np.append(lowest[:-1][points.used], lowest[-1]), np.append(np.inf, own))
        scores = _in_turn(before, own)[-len(points.recall) :]
        return Curve(
            precision=np.interp(RECALLS, points.recall, points.precision, right=0.0),
            score=np.interp(RECALLS, points.recall, scores, right=0.0),
        )

    def _weights(self, weights: Floats | None) -> Floats:
        return np.ones(len(self._truth)) if weights is None else weights

    def _points(self, weights: Floats) -> "_Points | None":
        """Where the devkit interpolates; None where there is no ground truth or no hit."""
        positives = float(weights @ self._truth)
        own = weights[self._scene]
        used = own > 0
        if positives <= 0 or not used.any():
            return None
        hits = np.cumsum(own)[used]
        misses = np.cumsum(self._misses @ weights)
        # Two points a hit, as the devkit interpolates: all misses before it, and the hit itself; then what is left.
        missed = np.append(misses[:-1][used], misses[-1])
        found = _in_turn(np.append(np.append(0.0, hits[:-1]), hits[-1]), hits)
        wrong = _in_turn(missed, missed[:-1])
        start = 0 if missed[0] > 0 else 1  # nothing lies before a first hit
        precision = found[start:] / (found + wrong)[start:]
        return _Points(used=used, recall=found[start:] / positives, precision=precision)

    def errors(self, name: str, weights: Floats | None = None) -> dict[str, float | None]:
        """Errors by ERROR_NAMES of a class, 1 where too little is found, None where the class has no such error."""
        assert self._errors is not None, "errors were not given"
        weights = self._weights(weights)
        curve = self.curve(weights)
        reached = np.flatnonzero(curve.score)
        last = int(reached[-1]) if len(reached) else 0
        own = weights[self._scene]
        used = own > 0
        found: dict[str, float | None] = {}
        for place, error in enumerate(ERROR_NAMES):
            if not has_error(name, error):
                found[error] = None
            elif last < FIRST:
                found[error] = 1.0
            else:
                means = _running_mean(self._errors[used, place], own[used])
                along = np.interp(curve.score[::-1], self._score[used][::-1], means[::-1])[::-1]
                found[error] = float(along[FIRST : last + 1].mean())
        return found


def _in_turn(first: Floats, second: Floats) -> Floats:
    """Values of two series in turn; the first has one more."""
    both = np.empty(len(first) + len(second))
    both[::2], both[1::2] = first, second
    return both


def _running_mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean of the values so far that are known; 0 before the first, 1 where none is known."""
    known = ~np.isnan(values)
    if not known.any():
        return np.ones(len(values))
    count = np.cumsum(weights * known)
    total = np.cumsum(weights * np.where(known, values, 0.0))
    return np.divide(total, count, out=np.zeros(len(values)), where=count != 0)


def nds_of(mean_ap: float, errors: dict[str, float]) -> float:
    """The nuScenes detection score of a mean AP and of mean errors."""
    return (5 * mean_ap + sum(max(1 - error, 0.0) for error in errors.values())) / 10


def has_error(name: str, error: str) -> bool:
    """Whether the protocol measures an error of a class."""
    return error not in _UNDEFINED.get(name, ())

"""95 % intervals of scores and gains, by a bootstrap over scenes and seeds together.

Scenes are drawn with replacement, and seeds too, the same for both sides of a gain. What a score becomes when scenes
are drawn k_s times follows from the scores without each of the S scenes, to first order (jackknife influence, Efron,
"The Jackknife, the Bootstrap and Other Resampling Plans", 1982):

    score(k) = score + sum_s (k_s / S) u_s,   u_s = (S - 1) (score - score without s), less their mean

so that no detection has to be matched again. Few seeds drawn with replacement vary too little, by (K - 1) / K; their
deviations are stretched by the root of its inverse. Of one seed the interval is that of the scenes alone.
"""

from collections.abc import Sequence

import numpy as np

from training.benchmark.distillation.outcome import Outcome

DRAWS = 4000
PERCENTILES = (2.5, 97.5)
_SCORES = {"nds": 0, "mean_ap": 1}  # place in `Outcome.without_scenes`

Interval = tuple[float, float]


def score_interval(runs: Sequence[Outcome], name: str) -> Interval | None:
    """Interval in points of the mean over runs of a score, `nds` or `mean_ap`; None where runs know no scenes."""
    return _interval([_with_influence(run, name) for run in runs])


def gain_interval(runs: Sequence[Outcome], base: Sequence[Outcome], name: str) -> Interval | None:
    """The same of the gain over other runs, seed by seed; of seeds that both sides have."""
    before = {run.seed: run for run in base}
    pairs = [(run, before[run.seed]) for run in runs if run.seed in before]
    if any(run.without_scenes.keys() != other.without_scenes.keys() for run, other in pairs):
        return None
    return _interval([_with_influence(run, name) - _with_influence(other, name) for run, other in pairs])


def _with_influence(run: Outcome, name: str) -> np.ndarray:
    """The score, and behind it the influence of each scene, in points."""
    score = getattr(run, name)
    left = np.array([scores[_SCORES[name]] for _, scores in sorted(run.without_scenes.items())])
    influence = max(len(left) - 1, 0) * (score - left)
    return 100 * np.array([score, *(influence - influence.mean() if len(influence) else ())])


def _interval(rows: Sequence[np.ndarray]) -> Interval | None:
    if not rows or min(len(row) for row in rows) < 3 or len({len(row) for row in rows}) > 1:
        return None  # no seed, or fewer than two scenes
    values = np.stack(rows)  # (K, 1 + S)
    seeds, scenes = len(values), values.shape[1] - 1
    random = np.random.default_rng(0)
    chosen = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS) / seeds
    stretch = (seeds / (seeds - 1)) ** 0.5 if seeds > 1 else 1.0
    drawn = random.multinomial(scenes, np.full(scenes, 1 / scenes), size=DRAWS) / scenes
    means = (chosen + (stretch - 1) * (chosen - 1 / seeds)) @ values
    scores = means[:, 0] + (means[:, 1:] * drawn).sum(axis=1)
    low, high = np.percentile(scores, PERCENTILES)
    return float(low), float(high)

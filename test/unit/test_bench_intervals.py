"""Intervals of scores and gains over scenes and seeds."""

from typing import Any

import numpy as np
import pytest

from training.benchmark.distillation.intervals import Interval, gain_interval, score_interval
from training.benchmark.distillation.outcome import Outcome

SCENES = 24


def run(seed: int, scenes: np.ndarray, **changes: Any) -> Outcome:
    """A run whose score is the mean over its scenes, so that what a resample gives is known."""
    total = float(scenes.mean())
    left = {
        f"scene-{place:02d}": (float(np.delete(scenes, place).mean()), total) for place in range(len(scenes))
    }  # fmt: skip
    settings: dict[str, Any] = {
        "method": "any", "split": "val", "tp_errors": {}, "class_ap": {}, "train_seconds": 1.0,
        "peak_memory_bytes": 1, "parameters": 1, "graph": "",
    }  # fmt: skip
    known = {"nds": total, "mean_ap": total, "without_scenes": left}
    return Outcome(seed=seed, **{**settings, **known, **changes})


def width(interval: Interval | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_of_one_seed_it_is_the_interval_of_the_mean_over_scenes() -> None:
    scenes = np.random.default_rng(1).normal(0.3, 0.05, SCENES)
    low, high = score_interval([run(0, scenes)], "nds") or (0, 0)
    error = 100 * scenes.std() / SCENES**0.5
    assert (low + high) / 2 == pytest.approx(100 * scenes.mean(), abs=0.15 * error)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_of_equal_scenes_it_is_that_of_the_mean_over_seeds() -> None:
    values = np.random.default_rng(2).normal(0.3, 0.02, 5)
    runs = [run(seed, np.full(SCENES, value)) for seed, value in enumerate(values)]
    error = 100 * values.std(ddof=1) / 5**0.5
    assert width(score_interval(runs, "nds")) == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert width(score_interval(runs[:2], "nds")) > 0


def test_a_gain_is_paired_by_scene_and_seed() -> None:
    random = np.random.default_rng(3)
    base = [run(seed, random.normal(0.3, 0.1, SCENES)) for seed in range(3)]
    better = [run(seed, 0.02 + random.normal(0.0, 0.001, SCENES) + _scenes(entry)) for seed, entry in enumerate(base)]
    low, high = gain_interval(better, base, "nds") or (0, 0)
    assert low < 2.0 < high
    assert high - low < 0.3
    assert width(score_interval(better, "nds")) > 2.0
    assert gain_interval(better[:2], base[1:], "nds") == gain_interval(better[1:2], base[1:2], "nds")


def _scenes(outcome: Outcome) -> np.ndarray:
    """The scores of a run's scenes, from those without each."""
    left = np.array([nds for nds, _ in outcome.without_scenes.values()])
    scenes: np.ndarray = SCENES * outcome.nds - (SCENES - 1) * left
    return scenes


def test_there_is_none_without_scenes() -> None:
    known, unknown = run(0, np.full(SCENES, 0.3)), run(0, np.full(SCENES, 0.3), without_scenes={})
    assert score_interval([unknown], "nds") is None
    assert score_interval([known, unknown], "nds") is None
    assert gain_interval([known], [unknown], "nds") is None
    assert gain_interval([known], [], "nds") is None

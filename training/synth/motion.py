"""How far something has gone along the road at a time."""

from dataclasses import dataclass

import numpy as np

_STEP = 0.01  # [s]
_LEAD_IN = 2.0  # [s] before time 0 that motions cover, for sweeps before the first key frame


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Distance along the road by time; the distance at time 0 is 0."""

    times: np.ndarray  # (N,) float64 [s], even steps
    distances: np.ndarray  # (N,) float64 [m]

    def distance(self, time: float) -> float:
        """Distance [m], negative against the road's direction."""
        return float(np.interp(time, self.times, self.distances))

    def speed(self, time: float) -> float:
        """Speed along the road [m/s]."""
        return (self.distance(time + _STEP) - self.distance(time - _STEP)) / (2 * _STEP)


STILL = Motion(times=np.array([0.0]), distances=np.array([0.0]))


def steady(speed: float, duration: float) -> Motion:
    """Motion at one speed [m/s], from the lead-in to `duration` [s] and a little beyond."""
    times = _clock(duration)
    return Motion(times=times, distances=speed * times)


def flowing(rng: np.random.Generator, duration: float, *, direction: int, stop_share: float = 0.25) -> Motion:
    """Traffic of one lane: 3-12 m/s that swells and ebbs; a share of lanes stops for a while.

    Args:
        rng: Chooses the speed.
        duration: Time to cover after time 0 [s].
        direction: 1 along the road, -1 against it.
        stop_share: Probability of a stop.
    """
    times = _clock(duration)
    mean, swell = rng.uniform(4.0, 10.5), rng.uniform(0.0, 1.5)
    speed = mean + swell * np.sin(2 * np.pi * (times / rng.uniform(8.0, 20.0) + rng.random()))
    if rng.random() < stop_share:
        begin, length = rng.uniform(-2.0, max(duration, 1.0)), rng.uniform(2.0, 5.0)
        braking = np.clip((begin - times) / 3.0, 0.0, 1.0) + np.clip((times - begin - length) / 3.0, 0.0, 1.0)
        speed = speed * np.minimum(braking, 1.0)
    speed = np.clip(speed, 0.0, 12.0)
    distances = np.concatenate([[0.0], np.cumsum(0.5 * (speed[1:] + speed[:-1]) * _STEP)])
    distances -= np.interp(0.0, times, distances)
    return Motion(times=times, distances=direction * distances)


def _clock(duration: float) -> np.ndarray:
    count = int(np.ceil((duration + 2 * _LEAD_IN) / _STEP)) + 1
    return -_LEAD_IN + _STEP * np.arange(count)

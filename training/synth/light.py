"""Daylight of a scene: sun, sky, haze and the cameras' answer to it."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Light:
    """Colours are linear RGB."""

    sun_direction: np.ndarray  # (3,) float64 unit vector towards the sun, global frame
    sun: np.ndarray  # (3,) float64
    ambient: np.ndarray  # (3,) float64, light of the whole sky on a level surface
    zenith: np.ndarray  # (3,) float64
    horizon: np.ndarray  # (3,) float64, also the colour of haze
    haze_range: float  # [m] distance at which haze takes 1 - 1/e of the contrast
    exposure: float
    noise: float  # standard deviation of the pixel noise, share of full scale


def draw_light(rng: np.random.Generator) -> Light:
    """Clear, hazy or overcast daylight; the sun stands 15 to 70 degrees high."""
    elevation, azimuth = np.radians(rng.uniform(15.0, 70.0)), rng.uniform(-np.pi, np.pi)
    clearness = float(np.clip(rng.beta(1.3, 0.8), 0.05, 1.0))
    warmth = np.array([1.0, 0.93, 0.82]) ** (1.6 * (1.0 - np.sin(elevation)))
    clear, grey = np.array([0.22, 0.40, 0.75]), np.array([0.62, 0.64, 0.67])
    zenith = clearness * clear + (1 - clearness) * grey
    horizon = clearness * np.array([0.70, 0.80, 0.92]) + (1 - clearness) * np.array([0.75, 0.76, 0.78])
    level = 1.0 / (0.55 + 0.75 * clearness * np.sin(elevation))
    return Light(
        sun_direction=np.array(
            [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
        ),
        sun=1.5 * clearness * warmth,
        ambient=(0.35 + 0.45 * (1 - clearness)) * (0.5 + 0.5 * zenith / zenith.mean()),
        zenith=zenith,
        horizon=horizon * (0.9 + 0.1 * warmth),
        haze_range=float(rng.uniform(150.0, 600.0)),
        exposure=float(level * np.exp(rng.normal(0.0, 0.18))),
        noise=float(rng.uniform(0.004, 0.018)),
    )

"""Colour of a surface point: procedural texture, sun and sky light, and haze."""

from dataclasses import dataclass

import numpy as np

from training.synth.light import Light
from training.synth.mesh import Material
from training.synth.road import CrossSection

_NOISE_SIZE = 512
_FLOOR_HEIGHT = 3.2  # [m] of a house
_BAY = 2.6  # [m] from window to window
_DASH = (3.0, 9.0)  # [m] length and period of lane markings
_LINE = 0.08  # [m] half width of a lane marking
_PAINT_COLOUR = np.array([0.55, 0.55, 0.53], dtype=np.float32)
_WINDOW_COLOUR = np.array([0.04, 0.05, 0.07], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Surface:
    """Points that were seen, before light."""

    colours: np.ndarray  # (R, 3) float32 linear albedo
    materials: np.ndarray  # (R,) uint8
    texture: np.ndarray  # (R, 2) float32 [m]
    normals: np.ndarray  # (R, 3) float32 unit, towards the camera
    directions: np.ndarray  # (R, 3) float32 unit viewing rays
    distances: np.ndarray  # (R,) float32 [m]


def noise_table(rng: np.random.Generator) -> np.ndarray:
    """A periodic field (512, 512) float32 of zero mean and unit deviation: grain on top of soft spots."""
    white = rng.normal(size=(_NOISE_SIZE, _NOISE_SIZE)).astype(np.float32)
    spectrum = np.fft.rfft2(white)
    frequency = np.hypot(np.fft.fftfreq(_NOISE_SIZE)[:, None], np.fft.rfftfreq(_NOISE_SIZE)[None])
    soft = np.fft.irfft2(spectrum * np.exp(-((frequency * 25.0) ** 2))).astype(np.float32)
    mixed = 0.5 * white + soft / soft.std()
    return np.asarray((mixed - mixed.mean()) / mixed.std(), dtype=np.float32)


def albedo(surface: Surface, section: CrossSection, noise: np.ndarray) -> np.ndarray:
    """Textured albedo (R, 3) float32 in 0...1."""
    colours = surface.colours.copy()
    materials, texture = surface.materials, surface.texture
    _vary(colours, materials == Material.ROAD, texture, noise, cell=0.06, amplitude=0.14)
    _vary(colours, materials == Material.VERGE, texture, noise, cell=0.15, amplitude=0.30)
    _vary(colours, materials == Material.SIDEWALK, texture, noise, cell=0.08, amplitude=0.10)
    road = np.flatnonzero(materials == Material.ROAD)
    colours[road[_is_marked(texture[road], section)]] = _PAINT_COLOUR
    paved = np.flatnonzero(materials == Material.SIDEWALK)
    joint = ((texture[paved] % 1.2) < 0.06).any(axis=1)
    colours[paved[joint]] *= 0.6
    walls = np.flatnonzero(materials == Material.BUILDING)
    along, height = (texture[walls] % np.array([_BAY, _FLOOR_HEIGHT], dtype=np.float32)).T
    window = (along > 0.7) & (along < 1.9) & (height > 1.0) & (height < 2.5)
    colours[walls[window]] = _WINDOW_COLOUR
    return colours


def _vary(
    colours: np.ndarray, mask: np.ndarray, texture: np.ndarray, noise: np.ndarray, *, cell: float, amplitude: float
) -> None:
    """Multiply the colours of masked points by 1 + amplitude * noise, one noise cell per `cell` [m]."""
    index = np.flatnonzero(mask)
    lattice = np.floor(texture[index] / cell).astype(np.int64) % _NOISE_SIZE
    colours[index] *= np.clip(1.0 + amplitude * noise[lattice[:, 0], lattice[:, 1]], 0.3, 2.0)[:, None]


def _is_marked(texture: np.ndarray, section: CrossSection) -> np.ndarray:
    """Which places (R, 2) on the road carry paint: centre lines, dashes between lanes, edges of the cycle lane."""
    along, across = texture[:, 0], np.abs(texture[:, 1])
    marked = np.abs(across - 0.15) < _LINE
    dashed = along % _DASH[1] < _DASH[0]
    for lane in range(1, section.num_lanes):
        marked |= dashed & (np.abs(across - lane * section.lane) < _LINE)
    marked |= np.abs(across - section.travel) < _LINE
    return marked | (np.abs(across - section.travel - section.cycle_lane) < _LINE)


def sky(directions: np.ndarray, light: Light) -> np.ndarray:
    """Radiance (R, 3) float32 of the sky along unit directions (R, 3)."""
    height = np.clip(directions[:, 2:3], 0.0, 1.0) ** 0.6
    colour = light.horizon * (1 - height) + light.zenith * height
    glow = np.clip(directions @ light.sun_direction.astype(np.float32), 0.0, 1.0)[:, None]
    return np.asarray(colour + light.sun * (0.25 * glow**8 + 2.0 * glow**400), dtype=np.float32)


def shade(surface: Surface, colours: np.ndarray, lit: np.ndarray, light: Light, noise: np.ndarray) -> np.ndarray:
    """Radiance (R, 3) float32 of points.

    Args:
        surface: The points.
        colours: Their albedo (R, 3).
        lit: Whether the sun reaches them, bool (R,).
        light: Sun and sky.
        noise: From `noise_table`.
    """
    sun_direction = light.sun_direction.astype(np.float32)
    direct = np.clip(surface.normals @ sun_direction, 0.0, None) * lit
    open_sky = 0.62 + 0.38 * surface.normals[:, 2]
    leaves = surface.materials == Material.FOLIAGE
    if leaves.any():
        spot = surface.distances[leaves, None] * surface.directions[leaves] / 0.35
        lattice = np.floor(spot[:, :2] + spot[:, 2:] * 7.3).astype(np.int64) % _NOISE_SIZE
        direct[leaves] *= np.clip(1.0 + 0.5 * noise[lattice[:, 0], lattice[:, 1]], 0.1, 2.0)
    radiance = colours * (direct[:, None] * light.sun + open_sky[:, None] * light.ambient)
    _reflect(radiance, surface, lit, light)
    haze = 1.0 - np.exp(-surface.distances / light.haze_range)[:, None]
    return np.asarray(radiance * (1 - haze) + haze * light.horizon, dtype=np.float32)


def _reflect(radiance: np.ndarray, surface: Surface, lit: np.ndarray, light: Light) -> None:
    """Add what paint and glass mirror: the sky, and the sun's glint."""
    for material, share in ((Material.PAINT, 0.06), (Material.GLASS, 0.22)):
        index = np.flatnonzero(surface.materials == material)
        normals, directions = surface.normals[index], surface.directions[index]
        cosine = np.einsum("ri,ri->r", normals, directions)[:, None]
        mirrored = directions - 2 * cosine * normals
        fresnel = share + (1 - share) * (1 - np.abs(cosine)) ** 5 * 0.5
        upward = np.clip(mirrored[:, 2:3] * 4 + 0.5, 0.15, 1.0)
        glint = np.clip(mirrored @ light.sun_direction.astype(np.float32), 0.0, 1.0) ** 60 * lit[index]
        radiance[index] += (
            fresnel * upward * (light.horizon + light.zenith) / 2 + 0.5 * share * glint[:, None] * light.sun
        )

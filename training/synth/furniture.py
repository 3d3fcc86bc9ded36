"""Meshes of cones, barriers and what stands beside a road and is not annotated, on z = 0."""

from itertools import pairwise

import numpy as np

from training.synth.mesh import Colour, Material, Mesh, box, column, limb, loft, merge, quads, rectangle
from training.synth.vehicles import pick, tinted

_ORANGE: Colour = (0.85, 0.18, 0.02)
_WHITE: Colour = (0.85, 0.85, 0.85)
_RED: Colour = (0.60, 0.04, 0.03)
_CONCRETE: Colour = (0.42, 0.41, 0.39)
_YELLOW: Colour = (0.80, 0.55, 0.04)
_STEEL: Colour = (0.25, 0.26, 0.27)
_BARK: Colour = (0.10, 0.07, 0.05)
_LEAVES: tuple[Colour, ...] = ((0.06, 0.16, 0.04), (0.10, 0.20, 0.05), (0.16, 0.18, 0.05), (0.05, 0.12, 0.05))
_FACADES: tuple[Colour, ...] = (
    (0.45, 0.40, 0.35),
    (0.50, 0.30, 0.22),
    (0.35, 0.36, 0.38),
    (0.60, 0.57, 0.50),
    (0.30, 0.22, 0.18),
)


def traffic_cone(rng: np.random.Generator) -> Mesh:
    """An orange cone with one or two white bands on a square foot."""
    height, foot = float(rng.uniform(0.70, 1.10)), float(rng.uniform(0.36, 0.46))
    bands = [0.35, 0.55] if rng.random() < 0.5 else [0.28, 0.43, 0.56, 0.72]
    levels = [0.05, *bands, 1.0]
    parts = [box((-foot / 2, foot / 2), (-foot / 2, foot / 2), (0.0, 0.05), tinted(rng, (0.10, 0.06, 0.05)))]
    radius = 0.42 * foot
    for index, (low, high) in enumerate(pairwise(levels)):
        colour, material = (_WHITE, Material.RETRO) if index % 2 else (tinted(rng, _ORANGE, 0.08), Material.MATTE)
        rings = [(low * height, radius * (1.08 - low)), (high * height, radius * (1.08 - high))]
        parts.append(column((0.0, 0.0, 0.0), rings, 8, colour, material))
    return merge(parts)


def barrier(rng: np.random.Generator) -> Mesh:
    """A jersey barrier of concrete, or of plastic in red and white; long across its heading, as nuScenes has it."""
    length, thick, height = float(rng.uniform(2.0, 2.7)), float(rng.uniform(0.45, 0.60)), float(rng.uniform(0.85, 1.05))
    style = int(rng.integers(3))
    colours = {
        0: [tinted(rng, _CONCRETE)],
        1: [_RED, _WHITE, _RED, _WHITE],
        2: [_YELLOW, tinted(rng, (0.05, 0.05, 0.05)), _YELLOW],
    }[style]
    edges = np.linspace(-length / 2, length / 2, len(colours) + 1)
    levels = [(0.0, thick / 2), (0.12, thick / 2), (0.38 * height, 0.24 * thick), (height, 0.17 * thick)]
    parts = []
    for low, high, colour in zip(edges[:-1], edges[1:], colours, strict=True):
        rings = [rectangle((-half, half), (low, high), z) for z, half in levels]
        parts.append(loft(rings, colour, Material.MATTE if style == 0 else Material.RETRO))
    return merge(parts)


def tree(rng: np.random.Generator) -> Mesh:
    """A trunk with two leafy balls."""
    height, crown = float(rng.uniform(4.5, 9.0)), float(rng.uniform(1.2, 2.4))
    leaves = pick(rng, _LEAVES)
    trunk = column((0.0, 0.0, 0.0), [(0.0, 0.18), (height - crown, 0.10)], 6, _BARK)
    balls = []
    for _ in range(2):
        centre = np.array([*rng.normal(0.0, 0.3 * crown, 2), height - crown + rng.normal(0.0, 0.2 * crown)])
        levels = [
            (-crown, 0.25 * crown),
            (-0.5 * crown, 0.85 * crown),
            (0.2 * crown, crown),
            (0.8 * crown, 0.6 * crown),
            (crown, 0.1),
        ]
        balls.append(column(centre, levels, 8, tinted(rng, leaves), Material.FOLIAGE))
    return merge([trunk, *balls])


def lamp_post(rng: np.random.Generator) -> Mesh:
    """A post with an arm along +y."""
    height = float(rng.uniform(6.0, 9.0))
    post = column((0.0, 0.0, 0.0), [(0.0, 0.11), (height, 0.06)], 6, tinted(rng, _STEEL))
    arm = limb((0.0, 0.0, height), (0.0, 1.6, height + 0.3), 0.1, _STEEL)
    return merge([post, arm, box((-0.15, 0.15), (1.3, 2.0), (height + 0.2, height + 0.35), _STEEL)])


def sign_post(rng: np.random.Generator) -> Mesh:
    """A traffic sign that faces -x."""
    plate: Colour = ((0.05, 0.10, 0.55), (0.60, 0.05, 0.05), (0.80, 0.80, 0.80))[int(rng.integers(3))]
    post = column((0.0, 0.0, 0.0), [(0.0, 0.04), (2.6, 0.04)], 4, _STEEL)
    return merge([post, box((-0.07, -0.03), (-0.32, 0.32), (1.9, 2.55), plate, Material.RETRO)])


def building(rng: np.random.Generator, length: float, depth: float) -> Mesh:
    """A house [m] with windows, centred on the origin; its long side lies along x."""
    height = float(rng.choice([rng.uniform(4, 8), rng.uniform(9, 25)]))
    corners = rectangle((-length / 2, length / 2), (-depth / 2, depth / 2), 0.0)
    following = np.roll(corners, -1, axis=0)
    up = np.array([0.0, 0.0, height])
    walls = np.stack([corners, following, following + up, corners + up], axis=1)
    spans = np.linalg.norm(following - corners, axis=1)
    texture = np.zeros((4, 4, 2))
    texture[:, 1:3, 0] = spans[:, None]
    texture[:, 2:, 1] = height
    facade = quads(walls, pick(rng, _FACADES), Material.BUILDING, texture)
    return merge([facade, quads((corners + up)[None], (0.2, 0.2, 0.2))])

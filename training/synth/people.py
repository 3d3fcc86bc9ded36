"""Meshes of pedestrians, bicycles and motorcycles, on z = 0 with x forward."""

import numpy as np

from training.synth.mesh import Colour, Material, Mesh, box, column, limb, loft, merge, quads, rectangle
from training.synth.vehicles import pick

_SKIN: tuple[Colour, ...] = ((0.60, 0.38, 0.28), (0.42, 0.25, 0.16), (0.20, 0.11, 0.07))
_HAIR: tuple[Colour, ...] = ((0.02, 0.015, 0.01), (0.15, 0.08, 0.03), (0.35, 0.25, 0.12), (0.45, 0.45, 0.45))
_SHIRTS: tuple[Colour, ...] = (
    (0.65, 0.65, 0.65),
    (0.05, 0.05, 0.06),
    (0.55, 0.06, 0.06),
    (0.06, 0.14, 0.45),
    (0.08, 0.30, 0.12),
    (0.65, 0.45, 0.08),
    (0.40, 0.10, 0.35),
    (0.10, 0.35, 0.40),
)
_TROUSERS: tuple[Colour, ...] = ((0.03, 0.03, 0.04), (0.05, 0.08, 0.18), (0.22, 0.18, 0.12), (0.30, 0.30, 0.30))
_VEST: Colour = (0.90, 0.35, 0.02)
_HELMET: Colour = (0.85, 0.65, 0.05)
_RUBBER: Colour = (0.02, 0.02, 0.02)
_METAL: Colour = (0.30, 0.30, 0.32)
_FRAMES: tuple[Colour, ...] = (
    (0.55, 0.05, 0.05),
    (0.05, 0.15, 0.45),
    (0.03, 0.03, 0.03),
    (0.60, 0.60, 0.60),
    (0.10, 0.40, 0.15),
)


def pedestrian(
    rng: np.random.Generator, *, stride: float = 0.0, height: float | None = None, worker: bool = False
) -> Mesh:
    """An upright person.

    Args:
        rng: Chooses height, build and clothes.
        stride: Step length [m]; 0 stands.
        height: Body height [m]; drawn about 1.72 where not given.
        worker: Wears a high-visibility vest and a helmet.
    """
    tall = float(rng.normal(1.72, 0.08)) if height is None else height
    shirt, trousers, skin = pick(rng, _SHIRTS), pick(rng, _TROUSERS), pick(rng, _SKIN)
    top = _VEST if worker else shirt
    hair = _HELMET if worker else pick(rng, _HAIR)
    wide = float(rng.uniform(0.95, 1.2)) * tall / 1.72
    hip, shoulder = 0.48 * tall, 0.82 * tall
    parts = []
    for side in (-1, 1):
        foot = (side * stride / 2, side * 0.10 * wide, 0.0)
        parts.append(limb((0.0, side * 0.10 * wide, hip + 0.05), foot, 0.15 * wide, trousers))
        hand = (-side * 0.45 * stride + 0.03, side * 0.29 * wide, hip)
        parts.append(limb((0.0, side * 0.25 * wide, shoulder - 0.03), hand, 0.10 * wide, shirt))
    parts.append(_torso(hip, shoulder, wide, top, Material.RETRO if worker else Material.MATTE))
    parts += _head(0.0, shoulder, tall, skin, hair)
    if not worker and rng.random() < 0.25:
        parts.append(box((-0.30, -0.12), (-0.15, 0.15), (0.60 * tall, 0.80 * tall), pick(rng, _SHIRTS)))
    return merge(parts)


def sitting_person(rng: np.random.Generator) -> Mesh:
    """A person on a low bench."""
    wide, seat = float(rng.uniform(0.95, 1.15)), 0.45
    shirt, trousers, skin, hair = pick(rng, _SHIRTS), pick(rng, _TROUSERS), pick(rng, _SKIN), pick(rng, _HAIR)
    parts = [box((-0.25, 0.15), (-0.3, 0.3), (0.0, seat), (0.25, 0.16, 0.08))]
    for side in (-1, 1):
        parts.append(limb((0.0, side * 0.11, seat + 0.08), (0.42, side * 0.11, seat + 0.08), 0.16 * wide, trousers))
        parts.append(limb((0.42, side * 0.11, seat + 0.1), (0.42, side * 0.11, 0.0), 0.14 * wide, trousers))
        parts.append(limb((0.0, side * 0.25 * wide, 1.0), (0.3, side * 0.2, 0.65), 0.10 * wide, shirt))
    parts.append(_torso(seat, 1.05, wide, shirt))
    return merge(parts + _head(0.0, 1.05, 1.36, skin, hair))


def _torso(low: float, high: float, wide: float, colour: Colour, material: Material = Material.MATTE) -> Mesh:
    rings = [
        rectangle((-0.11 * wide, 0.11 * wide), (-0.17 * wide, 0.17 * wide), low),
        rectangle((-0.13 * wide, 0.13 * wide), (-0.23 * wide, 0.23 * wide), low + 0.8 * (high - low)),
        rectangle((-0.08 * wide, 0.08 * wide), (-0.16 * wide, 0.16 * wide), high),
    ]
    return loft(rings, colour, material)


def _head(x: float, low: float, high: float, skin: Colour, hair: Colour) -> list[Mesh]:
    size = high - low
    face = column((x, 0.0, low), [(-0.02, 0.05), (0.2 * size, 0.07), (0.35 * size, 0.1), (0.62 * size, 0.11)], 6, skin)
    crown = column((x - 0.01, 0.0, low), [(0.6 * size, 0.115), (0.85 * size, 0.1), (size, 0.04)], 6, hair)
    return [face, crown]


def _ring(x: float, radius: float, rim: float) -> Mesh:
    """A spoked wheel in the plane y = 0, seen as its rim."""
    angle = np.arange(11) * (2 * np.pi / 10)
    outer = np.column_stack([x + radius * np.cos(angle), np.zeros(11), radius + radius * np.sin(angle)])
    inner = np.column_stack([x + (radius - rim) * np.cos(angle), np.zeros(11), radius + (radius - rim) * np.sin(angle)])
    flat = np.stack([outer[:-1], outer[1:], inner[1:], inner[:-1]], axis=1)
    faces = [quads(flat + np.array([0.0, side * 0.025, 0.0]), _RUBBER) for side in (-1, 1)]
    tread = np.stack([outer[:-1], outer[1:], outer[1:], outer[:-1]], axis=1)
    tread[:, :2, 1], tread[:, 2:, 1] = -0.025, 0.025
    return merge([*faces, quads(tread, _RUBBER)])


def bicycle(rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A bicycle, with or without its rider."""
    radius, reach = 0.34, float(rng.uniform(0.50, 0.56))
    paint = pick(rng, _FRAMES)
    crank, seat, head = (-0.08, 0.0, 0.30), (-0.22, 0.0, 0.85), (0.36, 0.0, 0.88)
    parts = [_ring(-reach, radius, 0.07), _ring(reach, radius, 0.07)]
    bars = [
        (crank, seat),
        (seat, head),
        (crank, head),
        (crank, (-reach, 0.0, radius)),
        (seat, (-reach, 0.0, radius)),
        (head, (reach, 0.0, radius)),
    ]
    parts += [limb(start, end, 0.055, paint, Material.PAINT) for start, end in bars]
    parts += [limb((0.38, -0.28, 1.0), (0.38, 0.28, 1.0), 0.045, _METAL), limb(head, (0.38, 0.0, 1.0), 0.05, _METAL)]
    parts.append(box((-0.36, -0.1), (-0.08, 0.08), (0.88, 0.95), _RUBBER))
    if rider:
        parts += _rider(rng, seat=(-0.2, 0.93), hands=(0.36, 0.24, 1.02), feet=(-0.05, 0.12, 0.2), lean=0.3)
    return merge(parts)


def motorcycle(rng: np.random.Generator, *, rider: bool) -> Mesh:
    """A motorcycle or scooter, with or without its rider."""
    radius, reach = 0.31, float(rng.uniform(0.64, 0.76))
    paint = pick(rng, _FRAMES)
    parts = [_thick_wheel(x, radius) for x in (-reach, reach)]
    tank = [(-0.30, 0.28), (0.32, 0.28), (0.42, 0.75), (0.25, 0.98), (-0.15, 0.85), (-0.40, 0.75)]
    parts.append(loft([_side_ring(tank, -0.17), _side_ring(tank, 0.17)], paint, Material.PAINT))
    parts.append(box((-0.95, 0.0), (-0.14, 0.14), (0.70, 0.86), _RUBBER))
    parts += [limb((reach, side * 0.08, radius), (0.38, side * 0.08, 1.0), 0.07, _METAL) for side in (-1, 1)]
    parts.append(limb((0.32, -0.38, 1.08), (0.32, 0.38, 1.08), 0.06, _METAL))
    parts.append(box((0.42, 0.56), (-0.12, 0.12), (0.80, 1.02), (0.8, 0.8, 0.7)))
    parts.append(limb((-0.9, -0.2, 0.40), (0.1, -0.2, 0.33), 0.11, _METAL))
    if rider:
        parts += _rider(rng, seat=(-0.25, 0.86), hands=(0.30, 0.32, 1.10), feet=(0.02, 0.2, 0.3), lean=0.22)
    return merge(parts)


def _thick_wheel(x: float, radius: float) -> Mesh:
    angle = (np.arange(8) + 0.5) * (np.pi / 4)
    circle = np.column_stack([x + radius * np.cos(angle), np.zeros(8), radius + radius * np.sin(angle)])
    return loft([circle + np.array([0.0, side * 0.07, 0.0]) for side in (-1, 1)], _RUBBER)


def _side_ring(profile: list[tuple[float, float]], y: float) -> np.ndarray:
    return np.array([(x, y, z) for x, z in profile])


def _rider(
    rng: np.random.Generator,
    *,
    seat: tuple[float, float],
    hands: tuple[float, float, float],
    feet: tuple[float, float, float],
    lean: float,
) -> list[Mesh]:
    """A person astride: seat (x, z), one hand and one foot [m], and how far the shoulders lean forward [m]."""
    shirt, trousers = pick(rng, _SHIRTS), pick(rng, _TROUSERS)
    hip_x, hip_z = seat
    shoulder_x, shoulder_z = hip_x + lean, hip_z + 0.52
    parts = []
    for side in (-1, 1):
        knee = (hip_x + 0.38, side * 0.16, hip_z - 0.12)
        parts.append(limb((hip_x, side * 0.1, hip_z + 0.05), knee, 0.16, trousers))
        parts.append(limb(knee, (feet[0], side * feet[1], feet[2]), 0.13, trousers))
        parts.append(limb((shoulder_x, side * 0.2, shoulder_z), (hands[0], side * hands[1], hands[2]), 0.1, shirt))
    rings = [
        rectangle((hip_x - 0.12, hip_x + 0.12), (-0.16, 0.16), hip_z),
        rectangle((shoulder_x - 0.13, shoulder_x + 0.11), (-0.22, 0.22), shoulder_z),
    ]
    parts.append(loft(rings, shirt))
    helmet = pick(rng, _FRAMES)
    return parts + _head(shoulder_x + 0.05, shoulder_z, shoulder_z + 0.33, pick(rng, _SKIN), helmet)

"""Meshes of cars, trucks, buses, trailers and construction machines.

Every shape stands on z = 0 with x forward; sizes vary about the class means of nuScenes.
"""

import numpy as np

from training.synth.mesh import Colour, Material, Mesh, box, column, extrude, limb, loft, merge, rectangle, wheel

_TYRE: Colour = (0.02, 0.02, 0.02)
_HUB: Colour = (0.35, 0.35, 0.37)
_GLASS: Colour = (0.03, 0.04, 0.05)
_DARK: Colour = (0.04, 0.04, 0.045)
_HEADLIGHT: Colour = (0.9, 0.9, 0.8)
_TAILLIGHT: Colour = (0.6, 0.02, 0.02)
_CAR_PAINTS: tuple[Colour, ...] = (
    (0.80, 0.80, 0.80),
    (0.55, 0.56, 0.58),
    (0.20, 0.21, 0.23),
    (0.03, 0.03, 0.035),
    (0.50, 0.04, 0.04),
    (0.05, 0.12, 0.45),
    (0.06, 0.22, 0.12),
    (0.55, 0.38, 0.10),
    (0.25, 0.12, 0.06),
    (0.12, 0.35, 0.50),
)
_TRUCK_PAINTS: tuple[Colour, ...] = (
    (0.75, 0.75, 0.75),
    (0.10, 0.20, 0.50),
    (0.50, 0.06, 0.05),
    (0.30, 0.32, 0.34),
    (0.08, 0.30, 0.15),
)
_CARGO_PAINTS: tuple[Colour, ...] = ((0.80, 0.80, 0.78), (0.60, 0.62, 0.65), (0.15, 0.30, 0.55), (0.60, 0.15, 0.10))
_BUS_PAINTS: tuple[Colour, ...] = (
    (0.65, 0.10, 0.08),
    (0.75, 0.72, 0.60),
    (0.10, 0.40, 0.25),
    (0.12, 0.25, 0.60),
    (0.80, 0.45, 0.05),
)
_MACHINE_PAINTS: tuple[Colour, ...] = ((0.80, 0.50, 0.02), (0.75, 0.58, 0.05), (0.80, 0.35, 0.03))


def tinted(rng: np.random.Generator, colour: Colour, spread: float = 0.12) -> Colour:
    """A colour near another: brightness and hue vary by the factor `spread`."""
    factors = np.exp(rng.normal(0.0, spread, 3) * 0.4 + rng.normal(0.0, spread))
    red, green, blue = np.clip(np.asarray(colour) * factors, 0.01, 0.95)
    return float(red), float(green), float(blue)


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, slightly varied."""
    return tinted(rng, colours[int(rng.integers(len(colours)))])


def car(rng: np.random.Generator) -> Mesh:
    """A sedan, hatchback, sport utility vehicle or van."""
    kind = ("sedan", "hatchback", "suv", "van")[int(rng.choice(4, p=[0.4, 0.2, 0.28, 0.12]))]
    length, width, height, rear, front = {
        "sedan": (4.75, 1.88, 1.46, -0.36, 0.20),
        "hatchback": (4.15, 1.80, 1.50, -0.47, 0.22),
        "suv": (4.75, 1.98, 1.76, -0.47, 0.22),
        "van": (5.00, 2.02, 1.98, -0.49, 0.34),
    }[kind]
    length, width, height = np.array([length, width, height]) * rng.normal(1.0, [0.04, 0.025, 0.03])
    paint = pick(rng, _CAR_PAINTS)
    belt = 0.60 * height if kind != "van" else 0.55 * height
    half = width / 2 - 0.02
    nose, tail = length / 2, -length / 2
    body = extrude(
        [
            (tail + 0.08, 0.26),
            (nose - 0.10, 0.24),
            (nose, 0.38),
            (nose - 0.03, 0.74 * belt),
            (front * length + 0.25, belt),
            (tail + 0.05, belt),
            (tail, 0.7 * belt),
        ],
        half,
        paint,
        Material.PAINT,
    )
    parts = [body, _cabin(length, half, belt, height, rear, front, paint)]
    parts += [_light(nose, half, 0.62 * belt, 0.36, _HEADLIGHT), _light(tail, half, 0.78 * belt, 0.30, _TAILLIGHT)]
    parts += _wheels((0.31 * length, -0.30 * length), width / 2, 0.33 * height / 1.5, 0.22)
    return merge(parts)


def _cabin(length: float, half: float, belt: float, height: float, rear: float, front: float, paint: Colour) -> Mesh:
    slope = 0.10 if rear < -0.4 else 0.14
    lower = rectangle((rear * length, front * length), (-half + 0.03, half - 0.03), belt - 0.01)
    upper = rectangle(
        ((rear + 0.35 * slope) * length, (front - slope) * length), (-half + 0.2, half - 0.2), height - 0.05
    )
    roof = rectangle(
        ((rear + 0.4 * slope) * length, (front - slope - 0.01) * length), (-half + 0.24, half - 0.24), height
    )
    return merge([loft([lower, upper], _GLASS, Material.GLASS), loft([upper, roof], paint, Material.PAINT)])


def _light(x: float, half: float, z: float, extent: float, colour: Colour) -> Mesh:
    inward = -0.06 if x > 0 else 0.06
    span = (min(x, x + inward), max(x, x + inward))
    return merge(
        [
            box(
                span,
                (side * half - (extent if side > 0 else 0), side * half + (0 if side > 0 else extent)),
                (z - 0.07, z + 0.07),
                colour,
            )
            for side in (-1, 1)
        ]
    )


def _wheels(axles: tuple[float, ...], half_width: float, radius: float, thickness: float) -> list[Mesh]:
    return [
        wheel((x, side * (half_width - thickness / 2 - 0.005), radius), radius, thickness, _TYRE, _HUB)
        for x in axles
        for side in (-1, 1)
    ]


def _truck_cab(x: tuple[float, float], width: float, height: float, paint: Colour) -> Mesh:
    half = width / 2
    body = box(x, (-half, half), (0.55, 0.52 * height), paint, Material.PAINT)
    band = loft(
        [
            rectangle(x, (-half, half), 0.52 * height),
            rectangle((x[0], x[1] - 0.12), (-half + 0.05, half - 0.05), 0.82 * height),
        ],
        _GLASS,
        Material.GLASS,
    )
    back = box(
        (x[0], x[0] + 0.25 * (x[1] - x[0])),
        (-half + 0.01, half - 0.01),
        (0.5 * height, 0.83 * height),
        paint,
        Material.PAINT,
    )
    roof = box((x[0], x[1] - 0.12), (-half + 0.04, half - 0.04), (0.82 * height, height), paint, Material.PAINT)
    bumper = box((x[1] - 0.3, x[1] + 0.06), (-half, half), (0.35, 0.6), _DARK)
    return merge([body, band, back, roof, bumper, _light(x[1] + 0.02, half - 0.1, 0.75, 0.35, _HEADLIGHT)])


def truck(rng: np.random.Generator) -> Mesh:
    """A box truck or a flatbed truck with low walls."""
    length, width, height = rng.uniform(6.0, 8.2), rng.uniform(2.3, 2.55), rng.uniform(2.7, 3.4)
    paint, cargo = pick(rng, _TRUCK_PAINTS), pick(rng, _CARGO_PAINTS)
    cab_rear = length / 2 - rng.uniform(1.7, 2.1)
    half = width / 2
    parts = [_truck_cab((cab_rear, length / 2 - 0.06), width - 0.1, min(2.6, height - 0.1), paint)]
    parts.append(box((-length / 2, cab_rear), (-0.45, 0.45), (0.5, 0.85), _DARK))
    bed = (-length / 2, cab_rear - 0.15)
    top = height if rng.random() < 0.7 else 1.6
    parts.append(box(bed, (-half, half), (0.85, top), cargo, Material.PAINT))
    parts.append(_light(-length / 2 - 0.01, half - 0.1, 0.75, 0.3, _TAILLIGHT))
    parts += _wheels((length / 2 - 1.1, -0.27 * length), half, 0.47, 0.32)
    return merge(parts)


def tractor(rng: np.random.Generator) -> Mesh:
    """The short truck that pulls a trailer."""
    length, width, height = rng.uniform(4.6, 5.4), rng.uniform(2.4, 2.55), rng.uniform(2.9, 3.5)
    paint = pick(rng, _TRUCK_PAINTS)
    parts = [_truck_cab((length / 2 - 2.2, length / 2 - 0.06), width, height, paint)]
    parts.append(box((-length / 2, length / 2 - 2.2), (-0.5, 0.5), (0.5, 0.95), _DARK))
    parts += _wheels((length / 2 - 1.2, -length / 2 + 0.75), width / 2, 0.5, 0.34)
    return merge(parts)


def trailer(rng: np.random.Generator) -> Mesh:
    """A box trailer, or a flatbed with a container that leaves its ends free."""
    length, width, height = rng.uniform(9.0, 12.5), rng.uniform(2.45, 2.6), rng.uniform(3.5, 4.0)
    half = width / 2
    cargo = pick(rng, _CARGO_PAINTS)
    parts = [box((-length / 2, length / 2), (-half, half), (1.0, 1.2), _DARK)]
    if rng.random() < 0.65:
        parts.append(box((-length / 2, length / 2), (-half + 0.01, half - 0.01), (1.2, height), cargo, Material.PAINT))
    else:
        parts.append(
            box(
                (-0.36 * length, 0.40 * length),
                (-half + 0.1, half - 0.1),
                (1.2, rng.uniform(2.4, 3.6)),
                cargo,
                Material.PAINT,
            )
        )
        parts.append(box((length / 2 - 0.15, length / 2), (-half, half), (1.2, 2.3), _DARK))
    parts += _wheels((-0.28 * length, -0.28 * length - 1.15), half, 0.5, 0.35)
    parts += [limb((0.3 * length, side, 0.0), (0.3 * length, side, 1.0), 0.16, _DARK) for side in (-0.7, 0.7)]
    parts.append(_light(-length / 2 - 0.01, half - 0.1, 1.1, 0.35, _TAILLIGHT))
    return merge(parts)


def bus(rng: np.random.Generator) -> Mesh:
    """A rigid bus with a row of windows on either side."""
    length, width, height = rng.uniform(10.2, 12.3), rng.uniform(2.55, 2.8), rng.uniform(3.1, 3.6)
    half, nose = width / 2, length / 2
    paint = pick(rng, _BUS_PAINTS)
    light = tinted(rng, (0.75, 0.75, 0.72))
    parts = [
        box((-nose, nose), (-half, half), (0.35, 1.25), paint, Material.PAINT),
        box((-nose + 0.04, nose - 0.04), (-half + 0.03, half - 0.03), (1.25, 2.35), _GLASS, Material.GLASS),
        box((-nose, nose), (-half, half), (2.35, height), light, Material.PAINT),
        box((nose - 0.06, nose + 0.01), (-0.8, 0.8), (2.5, 2.8), (0.9, 0.55, 0.05)),
    ]
    for x in np.linspace(-nose + 0.08, nose - 0.35, 8):
        parts.append(box((x - 0.06, x + 0.06), (-half, half), (1.25, 2.35), paint, Material.PAINT))
    parts += [
        _light(nose + 0.01, half - 0.15, 0.75, 0.4, _HEADLIGHT),
        _light(-nose - 0.01, half - 0.1, 1.0, 0.25, _TAILLIGHT),
    ]
    return merge(parts + _wheels((nose - 2.4, -nose + 2.9), half, 0.48, 0.3))


def construction_vehicle(rng: np.random.Generator) -> Mesh:
    """An excavator or a wheel loader."""
    return _excavator(rng) if rng.random() < 0.55 else _wheel_loader(rng)


def _excavator(rng: np.random.Generator) -> Mesh:
    paint = pick(rng, _MACHINE_PAINTS)
    half, reach, peak = rng.uniform(1.15, 1.35), rng.uniform(3.0, 4.0), rng.uniform(3.0, 3.7)
    parts = [
        box((-1.7, 1.7), (side * (half - 0.25) - 0.25, side * (half - 0.25) + 0.25), (0.0, 0.8), _DARK)
        for side in (-1, 1)
    ]
    parts += [
        box((-1.9, 1.2), (-half + 0.1, half - 0.1), (0.85, 1.75), paint, Material.PAINT),
        box((-1.9, -1.1), (-half + 0.1, half - 0.1), (1.7, 2.05), paint, Material.PAINT),
        box((0.0, 1.2), (0.1, half - 0.1), (1.75, 2.65), _GLASS, Material.GLASS),
        box((-0.05, 1.25), (0.08, half - 0.08), (2.65, 2.75), paint, Material.PAINT),
    ]
    elbow = (0.62 * reach, -0.35, peak)
    parts += [
        limb((0.6, -0.35, 1.4), elbow, 0.42, paint, Material.PAINT),
        limb(elbow, (reach, -0.35, 0.9), 0.34, paint, Material.PAINT),
        box((reach - 0.35, reach + 0.35), (-0.85, 0.15), (0.15, 0.95), _DARK),
    ]
    return merge(parts)


def _wheel_loader(rng: np.random.Generator) -> Mesh:
    paint = pick(rng, _MACHINE_PAINTS)
    half, height, lift = rng.uniform(1.15, 1.35), rng.uniform(2.9, 3.3), rng.uniform(0.1, 1.2)
    parts = [
        box((-2.9, -0.6), (-half + 0.35, half - 0.35), (0.7, 1.9), paint, Material.PAINT),
        box((-0.6, 1.5), (-half + 0.45, half - 0.45), (0.7, 1.35), paint, Material.PAINT),
        loft(
            [rectangle((-0.8, 0.7), (-0.75, 0.75), 1.4), rectangle((-0.7, 0.4), (-0.65, 0.65), height - 0.12)],
            _GLASS,
            Material.GLASS,
        ),
        box((-0.85, 0.55), (-0.72, 0.72), (height - 0.12, height), paint, Material.PAINT),
        column((-1.8, 0.3, 1.9), [(0.0, 0.07), (0.6, 0.07)], 4, _DARK),
    ]
    parts += [limb((1.0, side, 1.3), (2.8, side, 0.45 + lift), 0.26, paint, Material.PAINT) for side in (-0.45, 0.45)]
    parts.append(
        extrude([(2.6, lift), (3.6, lift), (3.7, lift + 0.15), (2.9, lift + 1.0), (2.55, lift + 0.9)], half, _DARK)
    )
    return merge(parts + _wheels((1.15, -1.75), half, 0.72, 0.5))

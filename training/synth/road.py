"""A gently curved road: its centre line, its cross-section and the mesh of the ground.

Places on the road are (along, offset): metres along the centre line, and metres to its left. Traffic keeps to the
right, so lanes along the road have negative offsets. From the centre outwards lie travel lanes, a cycle lane, a parking
strip, a kerb, a sidewalk, a verge.
"""

from dataclasses import dataclass

import numpy as np

from training.synth.mesh import Colour, Material, Mesh, merge, quads

KERB_HEIGHT = 0.12  # [m]
_VERGE_EDGE = 100.0  # [m] from the centre line; less than the least radius of curvature
_MIN_RADIUS = 260.0  # [m]
_ROW = 4.0  # [m] length of a row of ground quads

_ASPHALT: Colour = (0.13, 0.13, 0.135)
_PAVING: Colour = (0.33, 0.32, 0.30)
_GRASS: Colour = (0.12, 0.17, 0.06)
_KERB: Colour = (0.40, 0.40, 0.39)


@dataclass(frozen=True, kw_only=True)
class CrossSection:
    """Widths [m] of either half of the road."""

    num_lanes: int  # travel lanes in each direction
    lane: float
    cycle_lane: float = 1.7
    parking: float = 3.2
    sidewalk: float = 3.6

    @property
    def travel(self) -> float:
        """From the centre line to the outer edge of the travel lanes [m]."""
        return self.num_lanes * self.lane

    @property
    def cycle_centre(self) -> float:
        """Middle of the cycle lane [m]."""
        return self.travel + self.cycle_lane / 2

    @property
    def parking_centre(self) -> float:
        """Middle of the parking strip [m]."""
        return self.travel + self.cycle_lane + self.parking / 2

    @property
    def kerb(self) -> float:
        """From the centre line to the kerb [m]."""
        return self.travel + self.cycle_lane + self.parking

    @property
    def sidewalk_edge(self) -> float:
        """Outer edge of the sidewalk [m]."""
        return self.kerb + self.sidewalk

    def lane_centre(self, index: int) -> float:
        """Middle of the travel lane `index`, counted outwards [m]."""
        return (index + 0.5) * self.lane


@dataclass(frozen=True, kw_only=True)
class Road:
    """Centre line in even steps of the distance along it, and what lies across it."""

    along: np.ndarray  # (N,) float64 [m]
    x: np.ndarray  # (N,) float64 [m], global frame
    y: np.ndarray  # (N,) float64 [m]
    heading: np.ndarray  # (N,) float64 [rad], not wrapped
    section: CrossSection

    def pose(self, along: np.ndarray | float, offset: np.ndarray | float) -> np.ndarray:
        """Poses (..., 3) of places: x, y [m] and the road's heading [rad]; `along` is held within the road's ends."""
        heading = np.interp(along, self.along, self.heading)
        x = np.interp(along, self.along, self.x) - offset * np.sin(heading)
        y = np.interp(along, self.along, self.y) + offset * np.cos(heading)
        return np.stack([x, y, heading], axis=-1)


def make_road(rng: np.random.Generator, *, begin: float, end: float) -> Road:
    """A road from `begin` to `end` [m along], through somewhere in the global frame."""
    along = np.arange(begin, end + 1.0)
    straight = rng.random() < 0.25
    bend, wave = rng.uniform(-0.5, 0.5), rng.uniform(0.2, 0.5)
    phase = along / rng.uniform(120.0, 250.0) + rng.random()
    curvature = np.zeros_like(along) if straight else (bend + wave * np.sin(2 * np.pi * phase)) / _MIN_RADIUS
    heading = rng.uniform(-np.pi, np.pi) + np.concatenate([[0.0], np.cumsum(0.5 * (curvature[1:] + curvature[:-1]))])
    middle = 0.5 * (heading[1:] + heading[:-1])
    x = rng.uniform(300.0, 900.0) + np.concatenate([[0.0], np.cumsum(np.cos(middle))])
    y = rng.uniform(300.0, 900.0) + np.concatenate([[0.0], np.cumsum(np.sin(middle))])
    section = CrossSection(num_lanes=int(rng.integers(1, 3)), lane=float(rng.uniform(3.3, 3.7)))
    return Road(along=along, x=x, y=y, heading=heading, section=section)


def ground_mesh(road: Road) -> Mesh:
    """Road surface, kerbs, sidewalks and verges; texture coordinates are (along, offset)."""
    section = road.section
    strips = [_strip(road, (-section.kerb, section.kerb), (0.0, 0.0), _ASPHALT, Material.ROAD)]
    for side in (-1.0, 1.0):
        kerb, edge, far = side * section.kerb, side * section.sidewalk_edge, side * _VERGE_EDGE
        strips += [
            _strip(road, (kerb, kerb), (0.0, KERB_HEIGHT), _KERB, Material.MATTE),
            _strip(road, (kerb, edge), (KERB_HEIGHT, KERB_HEIGHT), _PAVING, Material.SIDEWALK),
            _strip(road, (edge, far), (KERB_HEIGHT, KERB_HEIGHT), _GRASS, Material.VERGE),
        ]
    return merge(strips)


def _strip(
    road: Road, offsets: tuple[float, float], heights: tuple[float, float], colour: Colour, material: Material
) -> Mesh:
    along = np.arange(road.along[0], road.along[-1] + 1e-6, _ROW)
    edges = [
        np.column_stack([road.pose(along, offset)[:, :2], np.full(len(along), height)])
        for offset, height in zip(offsets, heights, strict=True)
    ]
    corners = np.stack([edges[0][:-1], edges[0][1:], edges[1][1:], edges[1][:-1]], axis=1)
    near, far = np.full(len(along) - 1, offsets[0]), np.full(len(along) - 1, offsets[1])
    texture = np.stack(
        [
            np.column_stack([along[:-1], near]),
            np.column_stack([along[1:], near]),
            np.column_stack([along[1:], far]),
            np.column_stack([along[:-1], far]),
        ],
        axis=1,
    )
    return quads(corners, colour, material, texture)

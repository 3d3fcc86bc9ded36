"""Coloured triangle meshes and the few ways in which they are built here.

A ring is a closed polygon (N, 3). Shapes are lofts: the skin between successive rings, closed by a fan at either end.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

Colour = tuple[float, float, float]  # linear RGB albedo, 0...1


class Material(IntEnum):
    """Reflectance class of a surface; the names index tables in `shading` and `lidar`."""

    MATTE = 0
    PAINT = 1
    GLASS = 2
    RETRO = 3  # retro-reflective sheet
    FOLIAGE = 4
    BUILDING = 5  # texture coordinates: along the wall, height
    ROAD = 6  # texture coordinates: along the road, to its left
    SIDEWALK = 7
    VERGE = 8


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A triangle soup; triangles need no common orientation."""

    triangles: np.ndarray  # (F, 3, 3) float32 [m]
    colours: np.ndarray  # (F, 3) float32 linear albedo 0...1
    materials: np.ndarray  # (F,) uint8, Material
    texture: np.ndarray  # (F, 3, 2) float32 [m], see Material; zero where unused

    def moved(self, offset: Sequence[float] | np.ndarray, yaw: float = 0.0) -> "Mesh":
        """Turned by `yaw` [rad] about z, then shifted by `offset` [m]."""
        cosine, sine = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        triangles = self.triangles.astype(np.float64) @ rotation.T + np.asarray(offset, dtype=np.float64)
        return Mesh(
            triangles=triangles.astype(np.float32), colours=self.colours, materials=self.materials, texture=self.texture
        )

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest coordinates, each (3,) [m]."""
        vertices = self.triangles.reshape(-1, 3)
        return vertices.min(axis=0), vertices.max(axis=0)


EMPTY = Mesh(
    triangles=np.zeros((0, 3, 3), dtype=np.float32),
    colours=np.zeros((0, 3), dtype=np.float32),
    materials=np.zeros(0, dtype=np.uint8),
    texture=np.zeros((0, 3, 2), dtype=np.float32),
)


def merge(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of several."""
    return Mesh(
        triangles=np.concatenate([mesh.triangles for mesh in meshes]),
        colours=np.concatenate([mesh.colours for mesh in meshes]),
        materials=np.concatenate([mesh.materials for mesh in meshes]),
        texture=np.concatenate([mesh.texture for mesh in meshes]),
    )


def quads(
    corners: np.ndarray, colour: Colour, material: Material = Material.MATTE, texture: np.ndarray | None = None
) -> Mesh:
    """Quadrilaterals (Q, 4, 3) [m], each two triangles, with texture coordinates (Q, 4, 2) [m]."""
    corners = np.asarray(corners, dtype=np.float64)
    split = np.array([[0, 1, 2], [0, 2, 3]])
    coordinates = np.zeros((*corners.shape[:2], 2)) if texture is None else texture
    return _soup(corners[:, split].reshape(-1, 3, 3), colour, material, coordinates[:, split].reshape(-1, 3, 2))


def loft(
    rings: Sequence[np.ndarray], colour: Colour, material: Material = Material.MATTE, *, cap: Colour | None = None
) -> Mesh:
    """Skin over rings (K, N, 3) [m] of equal N, closed at both ends; the last ring's fan may be of another colour."""
    stack = np.asarray(rings, dtype=np.float64)
    following = np.roll(stack, -1, axis=1)
    walls = np.stack([stack[:-1], following[:-1], following[1:], stack[1:]], axis=2).reshape(-1, 4, 3)
    count = stack.shape[1]
    fan = np.array([[0, index, index + 1] for index in range(1, count - 1)])
    top = _soup(stack[-1][fan], cap or colour, Material.PAINT if cap else material)
    return merge([quads(walls, colour, material), _soup(stack[0][fan], colour, material), top])


def rectangle(x: tuple[float, float], y: tuple[float, float], z: float) -> np.ndarray:
    """Level ring (4, 3) [m]."""
    return np.array([[x[0], y[0], z], [x[1], y[0], z], [x[1], y[1], z], [x[0], y[1], z]])


def box(
    x: tuple[float, float],
    y: tuple[float, float],
    z: tuple[float, float],
    colour: Colour,
    material: Material = Material.MATTE,
) -> Mesh:
    """Axis-aligned box [m]."""
    return loft([rectangle(x, y, z[0]), rectangle(x, y, z[1])], colour, material)


def extrude(
    profile: Sequence[tuple[float, float]], half_width: float, colour: Colour, material: Material = Material.MATTE
) -> Mesh:
    """A convex side view of (x, z) points [m], `half_width` to either side of y = 0."""
    points = np.asarray(profile, dtype=np.float64)
    return loft(
        [
            np.column_stack([points[:, 0], np.full(len(points), side), points[:, 1]])
            for side in (-half_width, half_width)
        ],
        colour,
        material,
    )


def limb(
    start: Sequence[float], end: Sequence[float], thickness: float, colour: Colour, material: Material = Material.MATTE
) -> Mesh:
    """A square bar of `thickness` [m] between two points [m]."""
    first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    axis = (last - first) / np.linalg.norm(last - first)
    aside = np.cross(axis, (0.0, 1.0, 0.0) if abs(axis[1]) < 0.9 else (1.0, 0.0, 0.0))
    aside /= np.linalg.norm(aside)
    upward = np.cross(axis, aside)
    ring = 0.5 * thickness * np.array([aside + upward, aside - upward, -aside - upward, -aside + upward])
    return loft([first + ring, last + ring], colour, material)


def wheel(centre: Sequence[float], radius: float, width: float, colour: Colour, hub: Colour) -> Mesh:
    """An upright disc about the y axis, eight-sided, with a hub on the outer side [m]."""
    angle = (np.arange(8) + 0.5) * (np.pi / 4)
    circle = np.column_stack([np.cos(angle), np.zeros(8), np.sin(angle)])
    side = 1.0 if centre[1] >= 0 else -1.0
    rings = [
        np.asarray(centre) + radius * circle + np.array([0.0, offset * width / 2, 0.0]) for offset in (-side, side)
    ]
    middle = np.asarray(centre) + 0.55 * radius * circle + np.array([0.0, side * (width / 2 + 0.005), 0.0])
    return loft([*rings, middle], colour, cap=hub)


def column(
    centre: Sequence[float] | np.ndarray,
    levels: Sequence[tuple[float, float]],
    sides: int,
    colour: Colour,
    material: Material = Material.MATTE,
) -> Mesh:
    """A round body about a vertical axis: (height, radius) pairs [m] above `centre` (x, y, z) [m]."""
    angle = (np.arange(sides) + 0.5) * (2 * np.pi / sides)
    circle = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(sides)])
    return loft(
        [np.asarray(centre) + radius * circle + np.array([0.0, 0.0, height]) for height, radius in levels],
        colour,
        material,
    )


def _soup(triangles: np.ndarray, colour: Colour, material: Material, texture: np.ndarray | None = None) -> Mesh:
    count = len(triangles)
    return Mesh(
        triangles=np.asarray(triangles, dtype=np.float32),
        colours=np.tile(np.asarray(colour, dtype=np.float32), (count, 1)),
        materials=np.full(count, material, dtype=np.uint8),
        texture=np.zeros((count, 3, 2), dtype=np.float32) if texture is None else np.asarray(texture, dtype=np.float32),
    )

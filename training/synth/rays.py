"""The one ray caster that cameras and LiDAR share."""

from dataclasses import dataclass

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from training.synth.mesh import merge
from training.synth.world import Snapshot

MISS = -1  # triangle of a ray that hits nothing
_LIFT = 5e-3  # [m] by which shadow rays start off the surface


@dataclass(frozen=True, kw_only=True)
class Hits:
    """What rays met first."""

    triangles: np.ndarray  # (R,) int32 into the snapshot's mesh, MISS for none
    distances: np.ndarray  # (R,) float32 in lengths of the ray's direction
    weights: np.ndarray  # (R, 2) float32 barycentric weights of the triangle's second and third vertex


class Surfaces:
    """Triangles that rays can meet, with what is slow to prepare of them.

    Args:
        snapshot: The triangles and their owners.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.mesh, self.owners = snapshot.mesh, snapshot.owners
        edges = np.diff(snapshot.mesh.triangles, axis=1)
        normals = np.cross(edges[:, 0], edges[:, 1])
        # (F, 3), of unit length, either side
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        self.scene = EmbreeScene()
        if len(self.owners):
            self._geometry = TriangleMesh(self.scene, snapshot.mesh.triangles)


class RayCaster:
    """Rays against what is at rest, prepared once per scene, and what moves, at one instant."""

    def __init__(self, resting: Surfaces, moving: Surfaces) -> None:
        self._parts = [part for part in (resting, moving) if len(part.owners)]
        self.mesh = merge([part.mesh for part in self._parts])
        self.owners = np.concatenate([part.owners for part in self._parts])
        self.normals = np.concatenate([part.normals for part in self._parts])

    def cast(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        """Nearest hits of rays from origins (R, 3) [m] along directions (R, 3); global frame."""
        origins = np.ascontiguousarray(origins, dtype=np.float32)
        directions = np.ascontiguousarray(directions, dtype=np.float32)
        triangles = np.full(len(origins), MISS, dtype=np.int32)
        distances = np.full(len(origins), np.inf, dtype=np.float32)
        weights = np.zeros((len(origins), 2), dtype=np.float32)
        first = 0
        for part in self._parts:
            result = part.scene.run(origins, directions, dists=distances, output=True)
            hit = np.flatnonzero(result["primID"] != MISS)
            triangles[hit] = result["primID"][hit] + first
            distances[hit] = result["tfar"][hit]
            weights[hit, 0], weights[hit, 1] = result["u"][hit], result["v"][hit]
            first += len(part.owners)
        return Hits(triangles=triangles, distances=distances, weights=weights)

    def owners_of(self, hits: Hits) -> np.ndarray:
        """Owner (R,) int32 of each hit, as in `Snapshot.owners`; MISS for none."""
        return np.where(hits.triangles == MISS, MISS, self.owners[hits.triangles])

    def facing_normals(self, triangles: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Unit normals (R, 3) of triangles (R,), turned against the rays' directions (R, 3)."""
        normals = self.normals[triangles]
        return np.where((np.einsum("ri,ri->r", normals, directions) > 0)[:, None], -normals, normals)

    def is_lit(self, points: np.ndarray, normals: np.ndarray, direction: np.ndarray) -> np.ndarray:
        """Whether points (R, 3) [m] on surfaces of normals (R, 3) see the light in `direction` (3,): bool (R,)."""
        lit = np.asarray(normals @ direction.astype(np.float32) > 0)
        for part in self._parts:
            index = np.flatnonzero(lit)
            if len(index):
                origins = (points[index] + _LIFT * normals[index]).astype(np.float32)
                towards = np.tile(direction.astype(np.float32), (len(origins), 1))
                lit[index] = part.scene.run(origins, towards, query="OCCLUDED") != 0
        return lit

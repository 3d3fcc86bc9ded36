"""A spinning 32-beam LiDAR that sees the same surfaces as the cameras."""

from dataclasses import dataclass

import numpy as np

from training.synth.mesh import Material
from training.synth.rays import MISS, RayCaster
from training.synth.rig import LIDAR_ELEVATIONS, ego_from_lidar

_REFLECTIVITY = {  # (constant, share of the albedo)
    Material.MATTE: (0.05, 0.55),
    Material.PAINT: (0.12, 0.55),
    Material.GLASS: (0.03, 0.10),
    Material.RETRO: (0.75, 0.25),
    Material.FOLIAGE: (0.12, 0.60),
    Material.BUILDING: (0.10, 0.45),
    Material.ROAD: (0.03, 0.35),
    Material.SIDEWALK: (0.05, 0.40),
    Material.VERGE: (0.10, 0.50),
}
_CONSTANT = np.array([_REFLECTIVITY[material][0] for material in Material], dtype=np.float32)
_SHARE = np.array([_REFLECTIVITY[material][1] for material in Material], dtype=np.float32)
_WEAK = 0.04  # reflected share below which returns begin to be lost
_FAR = 100.0  # [m] distance at which the signal of a surface has fallen to a half


@dataclass(frozen=True, kw_only=True)
class LidarModel:
    """What makes returns imperfect."""

    columns: int  # azimuths of one turn
    max_range: float  # [m]
    noise: float  # [m] standard deviation of the range
    dropout: float  # share of returns lost at random


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One turn, taken at one instant; points are ordered by column, then ring."""

    points: np.ndarray  # (P, 5) float32 [x y z intensity ring], m, 0...255; LiDAR frame
    owners: np.ndarray  # (P,) int32, see Snapshot.owners


def beam_directions(columns: int) -> np.ndarray:
    """Unit directions (columns, 32, 3) float64 in the LiDAR frame, clockwise from behind like the real one."""
    azimuth = -np.pi / 2 - 2 * np.pi * np.arange(columns)[:, None] / columns
    level = np.cos(LIDAR_ELEVATIONS)
    return np.stack(
        [
            np.cos(azimuth) * level,
            np.sin(azimuth) * level,
            np.broadcast_to(np.sin(LIDAR_ELEVATIONS), (columns, len(level))),
        ],
        axis=-1,
    )


def scan(caster: RayCaster, global_from_ego: np.ndarray, model: LidarModel, rng: np.random.Generator) -> Sweep:
    """One sweep from the ego pose (4, 4) [m] at the sweep's stamp."""
    local = beam_directions(model.columns).reshape(-1, 3)
    global_from_lidar = global_from_ego @ ego_from_lidar()
    directions = (local @ global_from_lidar[:3, :3].T).astype(np.float32)
    origins = np.broadcast_to(global_from_lidar[:3, 3].astype(np.float32), directions.shape)
    hits = caster.cast(origins, directions)
    seen = np.flatnonzero((hits.triangles != MISS) & (hits.distances < model.max_range))
    distances, triangles = hits.distances[seen], hits.triangles[seen]
    normals = caster.facing_normals(triangles, directions[seen])
    cosine = -np.einsum("ri,ri->r", normals, directions[seen])
    materials = caster.mesh.materials[triangles]
    reflected = (_CONSTANT[materials] + _SHARE[materials] * caster.mesh.colours[triangles].mean(axis=1)) * np.sqrt(
        np.clip(cosine, 0, 1)
    )
    signal = reflected * np.exp(-np.log(2) * distances / _FAR)
    kept = rng.random(len(seen)) < (1 - model.dropout) * np.clip(signal / _WEAK, 0.0, 1.0)
    measured = (distances + model.noise * rng.standard_normal(len(seen)))[kept]
    intensity = np.clip(signal * (1 + 0.1 * rng.standard_normal(len(seen))) * 255.0, 0.0, 255.0)[kept]
    ring = np.tile(np.arange(len(LIDAR_ELEVATIONS)), model.columns)[seen][kept]
    points = np.column_stack([local[seen][kept] * measured[:, None], np.floor(intensity), ring])
    return Sweep(points=points.astype(np.float32), owners=caster.owners[triangles[kept]])

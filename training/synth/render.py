"""Camera images of the world, with the owner of every pixel."""

from dataclasses import dataclass

import numpy as np

from training.synth.light import Light
from training.synth.rays import MISS, Hits, RayCaster
from training.synth.rig import Camera
from training.synth.road import CrossSection
from training.synth.shading import Surface, albedo, shade, sky


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image."""

    pixels: np.ndarray  # (height, width, 3) uint8 RGB
    owners: np.ndarray  # (height, width) int32, see Snapshot.owners; MISS for sky
    depth: np.ndarray  # (height, width) float32 [m] along the optical axis; infinite for sky


def camera_rays(camera: Camera, global_from_ego: np.ndarray, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rays through pixels (R, 2), u and v, of unit depth.

    Returns:
        Origins and directions, each (R, 3) float32 [m], global frame.
    """
    global_from_camera = global_from_ego @ camera.ego_from_camera
    homogeneous = np.column_stack([pixels, np.ones(len(pixels))])
    directions = homogeneous @ (global_from_camera[:3, :3] @ np.linalg.inv(camera.intrinsics)).T
    origins = np.broadcast_to(global_from_camera[:3, 3], directions.shape)
    return origins.astype(np.float32), directions.astype(np.float32)


def take_picture(
    caster: RayCaster,
    camera: Camera,
    global_from_ego: np.ndarray,
    *,
    light: Light,
    section: CrossSection,
    noise: np.ndarray,
    rng: np.random.Generator,
) -> Picture:
    """Expose one image.

    Args:
        caster: The world at the camera's stamp.
        camera: The camera.
        global_from_ego: Ego pose (4, 4) at the camera's stamp [m].
        light: Sun, sky and exposure.
        section: Where the road has its markings.
        noise: Texture of the ground, from `noise_table`.
        rng: Pixel noise and the error of the automatic exposure.
    """
    columns, rows = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    origins, directions = camera_rays(camera, global_from_ego, np.column_stack([columns.ravel(), rows.ravel()]))
    hits = caster.cast(origins, directions)
    lengths = np.linalg.norm(directions, axis=1)
    directions = directions / lengths[:, None]
    seen, missed = np.flatnonzero(hits.triangles != MISS), np.flatnonzero(hits.triangles == MISS)
    radiance = np.empty_like(directions)
    radiance[missed] = sky(directions[missed], light)
    surface = _surface(caster, hits, seen, directions[seen], lengths[seen])
    points = origins[seen] + surface.distances[:, None] * surface.directions
    lit = caster.is_lit(points, surface.normals, light.sun_direction)
    radiance[seen] = shade(surface, albedo(surface, section, noise), lit, light, noise)
    shape = (camera.height, camera.width)
    return Picture(
        pixels=_develop(radiance.reshape(*shape, 3), light, rng),
        owners=caster.owners_of(hits).reshape(shape),
        depth=np.where(hits.triangles == MISS, np.float32(np.inf), hits.distances).reshape(shape),
    )


def _surface(caster: RayCaster, hits: Hits, seen: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> Surface:
    triangles, weights = hits.triangles[seen], hits.weights[seen]
    corners = caster.mesh.texture[triangles]
    first = 1.0 - weights.sum(axis=1)
    texture = corners[:, 0] * first[:, None] + corners[:, 1] * weights[:, :1] + corners[:, 2] * weights[:, 1:]
    return Surface(
        colours=caster.mesh.colours[triangles],
        materials=caster.mesh.materials[triangles],
        texture=texture,
        normals=caster.facing_normals(triangles, directions),
        directions=directions,
        distances=hits.distances[seen] * lengths,
    )


def _develop(radiance: np.ndarray, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Exposure, sensor noise and a gamma of 2: (height, width, 3) uint8."""
    gain = np.float32(light.exposure * np.exp(rng.normal(0.0, 0.06)))
    encoded = np.sqrt(np.clip(radiance * gain, 0.0, 1.0))
    encoded += np.float32(light.noise) * rng.standard_normal(radiance.shape, dtype=np.float32)
    return (np.clip(encoded, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

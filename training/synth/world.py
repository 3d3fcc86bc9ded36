"""One scene: a road, what stands beside it, its traffic, and the ego vehicle's drive."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from training.synth.actors import Actor
from training.synth.furniture import building, lamp_post, sign_post, tree
from training.synth.light import Light, draw_light
from training.synth.mesh import EMPTY, Mesh, merge
from training.synth.motion import STILL, Motion, flowing
from training.synth.population import populate
from training.synth.road import KERB_HEIGHT, Road, ground_mesh, make_road

_MARGIN = 110.0  # [m] of road behind the first and before the last ego place
_SCENERY = 0  # owner of triangles that belong to no actor


@dataclass(frozen=True, kw_only=True)
class World:
    """A scene's content; times are seconds after its first key frame."""

    road: Road
    scenery: Mesh  # ground, houses, trees, posts; global frame
    actors: tuple[Actor, ...]
    ego_motion: Motion
    ego_offset: float  # [m] to the left of the centre line
    light: Light

    def ego_pose(self, time: float) -> np.ndarray:
        """global_from_ego (4, 4) float64 [m] at a time [s]."""
        x, y, heading = self.road.pose(self.ego_motion.distance(time), self.ego_offset)
        return _upright(x, y, 0.0, heading)

    def actor_poses(self, indices: Sequence[int], time: float) -> np.ndarray:
        """global_from_actor (K, 4, 4) float64 [m] of the centres of actors' boxes at a time [s]."""
        chosen = np.asarray(indices, dtype=np.int64)
        offsets, turns, heights = self._layout[:, chosen]
        x, y, heading = self.road.pose(self._places(time)[chosen], offsets).T
        return _upright(x, y, heights, heading + turns)

    def actor_pose(self, index: int, time: float) -> np.ndarray:
        """global_from_actor (4, 4) float64 [m] of one actor."""
        return self.actor_poses([index], time)[0]

    def near(self, time: float, reach: float) -> list[int]:
        """Indices of actors within `reach` [m] of the ego vehicle, along the road and on it, at a time [s]."""
        here = self.ego_motion.distance(time)
        low, high = self.road.along[0], self.road.along[-1]
        places = self._places(time)
        return np.flatnonzero((np.abs(places - here) <= reach) & (low < places) & (places < high)).tolist()

    def _places(self, time: float) -> np.ndarray:
        """Places along the road (A,) [m] of all actors at a time [s]."""
        starts, motions, numbers = self._schedule
        return starts + np.array([motion.distance(time) for motion in motions])[numbers]

    @cached_property
    def _schedule(self) -> tuple[np.ndarray, list[Motion], np.ndarray]:
        """Starts (A,) [m], the different motions, and which of them each actor has (A,)."""
        motions = {id(actor.motion): actor.motion for actor in self.actors}
        order = {key: number for number, key in enumerate(motions)}
        numbers = np.array([order[id(actor.motion)] for actor in self.actors], dtype=np.int64)
        return np.array([actor.start for actor in self.actors]), list(motions.values()), numbers

    @cached_property
    def _layout(self) -> np.ndarray:
        """Offset [m], turn [rad] and height of the box's centre [m] of all actors, (3, A)."""
        rows = [(actor.offset, actor.turn, actor.floor + actor.size[2] / 2) for actor in self.actors]
        return np.array(rows, dtype=np.float64).reshape(-1, 3).T


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Surfaces at one instant."""

    mesh: Mesh  # global frame
    owners: np.ndarray  # (F,) int32, 0 for scenery, else 1 + index of the actor


def resting(world: World) -> Snapshot:
    """All that never moves: scenery, and actors at rest for the whole scene."""
    still = [index for index, actor in enumerate(world.actors) if actor.motion is STILL]
    return _snapshot(world, still, 0.0, [world.scenery])


def moving(world: World, time: float, reach: float) -> Snapshot:
    """The actors that move, at a time [s], up to `reach` [m] from the ego vehicle."""
    indices = [index for index in world.near(time, reach) if world.actors[index].motion is not STILL]
    return _snapshot(world, indices, time, [EMPTY])


def _snapshot(world: World, indices: list[int], time: float, scenery: list[Mesh]) -> Snapshot:
    placed = [
        world.actors[index].mesh.moved(pose[:3, 3], np.arctan2(pose[1, 0], pose[0, 0]))
        for index, pose in zip(indices, world.actor_poses(indices, time), strict=True)
    ]
    meshes = [*scenery, *placed]
    counts = [len(mesh.colours) for mesh in meshes]
    numbers = [*(_SCENERY for _ in scenery), *(index + 1 for index in indices)]
    return Snapshot(mesh=merge(meshes), owners=np.repeat(np.array(numbers, dtype=np.int32), counts))


def make_world(rng: np.random.Generator, *, duration: float) -> World:
    """Draw a scene that lasts `duration` [s]."""
    ego_motion = flowing(rng, duration, direction=1)
    road = make_road(rng, begin=ego_motion.distances[0] - _MARGIN, end=ego_motion.distances[-1] + _MARGIN)
    lane = int(rng.integers(road.section.num_lanes))
    return World(
        road=road,
        scenery=merge([ground_mesh(road), *_roadside(rng, road)]),
        actors=populate(rng, road, ego_motion=ego_motion, ego_lane=lane, duration=duration),
        ego_motion=ego_motion,
        ego_offset=-road.section.lane_centre(lane),
        light=draw_light(rng),
    )


def _roadside(rng: np.random.Generator, road: Road) -> list[Mesh]:
    section = road.section
    meshes = []
    for side in (-1.0, 1.0):
        place = road.along[0] + 10.0
        while place < road.along[-1] - 15.0:
            length, depth = rng.uniform(12.0, 28.0), rng.uniform(8.0, 14.0)
            if rng.random() < 0.75:
                offset = section.sidewalk_edge + rng.uniform(1.5, 8.0) + depth / 2
                meshes.append(_planted(road, building(rng, length, depth), place + length / 2, side * offset))
            else:
                meshes += [
                    _planted(road, tree(rng), place + shift, side * (section.sidewalk_edge + 3.0))
                    for shift in (3.0, 9.0)
                ]
            place += length + rng.uniform(1.0, 10.0)
        place = road.along[0] + 6.0
        while place < road.along[-1] - 3.0:
            build = (tree, lamp_post, sign_post)[int(rng.choice(3, p=[0.4, 0.4, 0.2]))]
            turn = 0.0 if side < 0 else np.pi
            meshes.append(_planted(road, build(rng), place, side * (section.kerb + 0.45), turn))
            place += rng.uniform(12.0, 26.0)
    return meshes


def _planted(road: Road, mesh: Mesh, along: float, offset: float, turn: float = 0.0) -> Mesh:
    x, y, heading = road.pose(along, offset)
    return mesh.moved((x, y, KERB_HEIGHT), heading + turn)


def _upright(x: np.ndarray, y: np.ndarray, z: np.ndarray | float, yaw: np.ndarray) -> np.ndarray:
    """Poses (..., 4, 4) of places (...) [m] and headings (...) [rad]."""
    pose = np.zeros((*np.shape(x), 4, 4))
    cosine, sine = np.cos(yaw), np.sin(yaw)
    pose[..., 0, 0], pose[..., 0, 1], pose[..., 1, 0], pose[..., 1, 1] = cosine, -sine, sine, cosine
    pose[..., 0, 3], pose[..., 1, 3], pose[..., 2, 3] = x, y, z
    pose[..., 2, 2] = pose[..., 3, 3] = 1.0
    return pose

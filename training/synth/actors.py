"""What moves or could move: kinds of actors, and one actor of the world."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from training.synth import furniture, people, vehicles
from training.synth.mesh import Mesh
from training.synth.motion import Motion


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A sort of actor; `build` makes a mesh on z = 0 with x forward."""

    category: str  # nuScenes category
    build: Callable[[np.random.Generator], Mesh]
    attributes: tuple[str, str]  # at rest, in motion; nuScenes attributes or empty


_PARKED = ("vehicle.parked", "vehicle.moving")
_QUEUED = ("vehicle.stopped", "vehicle.moving")
_RIDDEN = ("cycle.with_rider", "cycle.with_rider")
_RIDERLESS = ("cycle.without_rider", "cycle.without_rider")
_WALKING = ("pedestrian.standing", "pedestrian.moving")
_NONE = ("", "")


def _vehicle_kinds(prefix: str, attributes: tuple[str, str]) -> dict[str, Kind]:
    shapes = {
        "car": ("vehicle.car", vehicles.car),
        "truck": ("vehicle.truck", vehicles.truck),
        "tractor": ("vehicle.truck", vehicles.tractor),
        "trailer": ("vehicle.trailer", vehicles.trailer),
        "bus": ("vehicle.bus.rigid", vehicles.bus),
        "construction_vehicle": ("vehicle.construction", vehicles.construction_vehicle),
    }
    return {
        f"{prefix}{name}": Kind(category=category, build=build, attributes=attributes)
        for name, (category, build) in shapes.items()
    }


KINDS: dict[str, Kind] = {
    **_vehicle_kinds("parked_", _PARKED),
    **_vehicle_kinds("", _QUEUED),
    "parked_bicycle": Kind(
        category="vehicle.bicycle", build=partial(people.bicycle, rider=False), attributes=_RIDERLESS
    ),
    "parked_motorcycle": Kind(
        category="vehicle.motorcycle", build=partial(people.motorcycle, rider=False), attributes=_RIDERLESS
    ),
    "bicycle": Kind(category="vehicle.bicycle", build=partial(people.bicycle, rider=True), attributes=_RIDDEN),
    "motorcycle": Kind(category="vehicle.motorcycle", build=partial(people.motorcycle, rider=True), attributes=_RIDDEN),
    "standing_adult": Kind(category="human.pedestrian.adult", build=people.pedestrian, attributes=_WALKING),
    "walking_adult": Kind(
        category="human.pedestrian.adult", build=partial(people.pedestrian, stride=0.55), attributes=_WALKING
    ),
    "walking_child": Kind(
        category="human.pedestrian.child",
        build=partial(people.pedestrian, stride=0.4, height=1.25),
        attributes=_WALKING,
    ),
    "sitting_adult": Kind(
        category="human.pedestrian.adult",
        build=people.sitting_person,
        attributes=("pedestrian.sitting_lying_down", "pedestrian.sitting_lying_down"),
    ),
    "worker": Kind(
        category="human.pedestrian.construction_worker",
        build=partial(people.pedestrian, worker=True, stride=0.1),
        attributes=_WALKING,
    ),
    "traffic_cone": Kind(category="movable_object.trafficcone", build=furniture.traffic_cone, attributes=_NONE),
    "barrier": Kind(category="movable_object.barrier", build=furniture.barrier, attributes=_NONE),
}

_MOVING_SPEED = 0.2  # [m/s] below it an actor is at rest


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One actor: its shape, and where on the road it goes.

    The box of an actor is the bounding box of its mesh, whose centre is the mesh's origin.
    """

    kind: Kind
    mesh: Mesh  # centred on its bounding box, x forward
    size: np.ndarray  # (3,) float64 length, width, height [m]
    start: float  # [m] place along the road at distance 0 of `motion`
    offset: float  # [m] to the left of the road's centre line
    turn: float  # [rad] heading relative to the road's
    floor: float  # [m] height of the ground below
    motion: Motion

    def place(self, time: float) -> float:
        """Place along the road [m] at a time [s]."""
        return self.start + self.motion.distance(time)

    def attribute(self, time: float) -> str:
        """NuScenes attribute at a time [s]; empty for what has none."""
        return self.kind.attributes[int(abs(self.motion.speed(time)) > _MOVING_SPEED)]


def make_actor(
    rng: np.random.Generator,
    kind_name: str,
    *,
    start: float,
    offset: float,
    motion: Motion,
    turn: float = 0.0,
    floor: float = 0.0,
) -> Actor:
    """Build an actor of one of `KINDS`; see `Actor` for the places."""
    kind = KINDS[kind_name]
    mesh = kind.build(rng)
    low, high = (bound.astype(np.float64) for bound in mesh.bounds())
    return Actor(
        kind=kind,
        mesh=mesh.moved(-(low + high) / 2),
        size=high - low,
        start=start,
        offset=offset,
        turn=turn,
        floor=floor,
        motion=motion,
    )

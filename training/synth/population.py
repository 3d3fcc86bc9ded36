"""Objects on the road: traffic in lanes, parked vehicles, work zones and pedestrians.

Everything is laid out in strips along the road that do not overlap, and one after another within a strip; what shares a
strip shares one motion. So nothing ever touches anything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from training.synth.actors import Actor, make_actor
from training.synth.motion import STILL, Motion, flowing, steady
from training.synth.road import KERB_HEIGHT, Road

_VIEW = 90.0  # [m] along the road on either side of the ego vehicle that must be filled
_EGO_SPACE = (-6.0, 10.0)  # [m] along the road, about the ego vehicle's rear axle, kept free in its lane
_HITCH = 0.4  # [m] between a tractor and its trailer
_QUARTER_TURN = np.pi / 2

_TRAFFIC: dict[tuple[str, ...], float] = {
    ("car",): 0.60,
    ("truck",): 0.12,
    ("bus",): 0.10,
    ("motorcycle",): 0.12,
    ("tractor", "trailer"): 0.06,
}


@dataclass(kw_only=True)
class _Strip:
    """Fills one strip of the road from its beginning to its end."""

    rng: np.random.Generator
    offset: float  # [m] middle of the strip, to the left of the centre line
    motion: Motion
    turn: float  # [rad] heading of its traffic relative to the road's
    cursor: float  # [m along] everything before it is taken
    end: float  # [m along]
    floor: float = 0.0  # [m]
    keep_free: tuple[float, float] | None = None  # [m along]
    actors: list[Actor] = field(default_factory=list)

    def add(self, *kinds: str, aside: float = 0.0, turn: float = 0.0, gap: float = 0.0) -> None:
        """Append a convoy, leader first, `aside` [m] of the middle and turned by `turn` [rad] against the traffic."""
        convoy = [self._draw(kind, aside, turn) for kind in kinds]
        lengths = [_extent(actor, turn) for actor in convoy]
        total = sum(lengths) + _HITCH * (len(convoy) - 1)
        begin = self.cursor + gap
        if self.keep_free and begin < self.keep_free[1] and begin + total > self.keep_free[0]:
            begin = self.keep_free[1]
        self.cursor = begin + total
        leader_first = np.cos(self.turn) < 0  # seen along the road
        for actor, length in list(zip(convoy, lengths, strict=True))[:: 1 if leader_first else -1]:
            self.actors.append(replace(actor, start=begin + length / 2))
            begin += length + _HITCH

    def _draw(self, kind: str, aside: float, turn: float) -> Actor:
        return make_actor(
            self.rng,
            kind,
            start=0.0,
            offset=self.offset + aside,
            motion=self.motion,
            turn=self.turn + turn,
            floor=self.floor,
        )

    def skip(self, low: float, high: float) -> None:
        """Leave a gap of random length [m]."""
        self.cursor += self.rng.uniform(low, high)

    @property
    def full(self) -> bool:
        """Whether the cursor passed the end."""
        return self.cursor >= self.end


def _extent(actor: Actor, turn: float) -> float:
    """Length [m] along the road of an actor turned by `turn` [rad] against it."""
    return float(abs(np.cos(turn)) * actor.size[0] + abs(np.sin(turn)) * actor.size[1])


def populate(
    rng: np.random.Generator, road: Road, *, ego_motion: Motion, ego_lane: int, duration: float
) -> tuple[Actor, ...]:
    """All actors of a scene; the ego vehicle drives in the right-hand lane `ego_lane`, counted outwards."""
    section = road.section
    actors: list[Actor] = []
    for side in (-1, 1):
        turn = 0.0 if side < 0 else np.pi
        for lane in range(section.num_lanes):
            own = side < 0 and lane == ego_lane
            motion = ego_motion if own else flowing(rng, duration, direction=-side)
            strip = _strip(rng, side * section.lane_centre(lane), motion, turn, ego_motion)
            actors += _traffic(replace(strip, keep_free=_EGO_SPACE if own else None))
        cycling = steady(-side * rng.uniform(3.0, 5.5), duration)
        actors += _cycle_lane(_strip(rng, side * section.cycle_centre, cycling, turn, ego_motion))
        actors += _parking(_strip(rng, side * section.parking_centre, STILL, turn, ego_motion), side)
        for track in range(3):
            speed = (rng.uniform(0.9, 1.7), -rng.uniform(0.9, 1.7), 0.0)[track]
            walking = steady(speed, duration) if speed else STILL
            offset = side * (section.kerb + 1.2 + 0.9 * track)
            walk = _strip(rng, offset, walking, 0.0 if speed >= 0 else np.pi, ego_motion)
            actors += _sidewalk(replace(walk, floor=KERB_HEIGHT), moving=speed != 0.0)
    return tuple(actors)


def _strip(rng: np.random.Generator, offset: float, motion: Motion, turn: float, ego_motion: Motion) -> _Strip:
    """An empty strip over all places at time 0 that the ego vehicle comes to see."""
    relative = ego_motion.distances - np.interp(ego_motion.times, motion.times, motion.distances)
    begin, end = float(relative.min()) - _VIEW, float(relative.max()) + _VIEW
    return _Strip(rng=rng, offset=offset, motion=motion, turn=turn, cursor=begin + rng.uniform(0.0, 15.0), end=end)


def _traffic(strip: _Strip) -> Sequence[Actor]:
    convoys, weights = list(_TRAFFIC), list(_TRAFFIC.values())
    while not strip.full:
        strip.skip(7.0, 32.0)
        strip.add(*convoys[int(strip.rng.choice(len(convoys), p=weights))], aside=strip.rng.uniform(-0.1, 0.1))
    return strip.actors


def _cycle_lane(strip: _Strip) -> Sequence[Actor]:
    while not strip.full:
        strip.skip(15.0, 60.0)
        strip.add("bicycle" if strip.rng.random() < 0.7 else "motorcycle", aside=strip.rng.uniform(-0.25, 0.25))
    return strip.actors


def _sidewalk(strip: _Strip, *, moving: bool) -> Sequence[Actor]:
    while not strip.full:
        strip.skip(12.0, 70.0)
        for _ in range(int(strip.rng.integers(1, 3))):
            if moving:
                kind = "walking_adult" if strip.rng.random() < 0.85 else "walking_child"
                strip.add(kind, gap=strip.rng.uniform(0.2, 0.8))
            else:
                kind = "standing_adult" if strip.rng.random() < 0.7 else "sitting_adult"
                strip.add(kind, turn=_QUARTER_TURN * strip.rng.choice([-1, 1]), gap=strip.rng.uniform(0.2, 0.8))
    return strip.actors


def _parking(strip: _Strip, side: int) -> Sequence[Actor]:
    """Deal decks of items, so that every class recurs about every 85 m."""
    while not strip.full:
        large = strip.rng.choice(["truck", "bus", "trailer"], size=2, replace=False).tolist()
        deck = [*large, "car", "car", "car", "work", "cycles", "people", "gap", "gap"]
        for item in strip.rng.permutation(deck).tolist():
            _deal(strip, item, side)
    return strip.actors


def _deal(strip: _Strip, item: str, side: int) -> None:
    aside = side * strip.rng.uniform(0.0, 0.2)
    match item:
        case "car" | "truck" | "bus":
            strip.add(f"parked_{item}", aside=aside, turn=strip.rng.normal(0.0, 0.01))
        case "trailer":
            strip.add(
                *(("parked_tractor", "parked_trailer") if strip.rng.random() < 0.5 else ("parked_trailer",)),
                aside=aside,
            )
        case "work":
            _work_zone(strip, side)
        case "cycles":
            for _ in range(int(strip.rng.integers(1, 4))):
                kind = "parked_bicycle" if strip.rng.random() < 0.5 else "parked_motorcycle"
                strip.add(kind, turn=side * _QUARTER_TURN + strip.rng.normal(0.0, 0.08), aside=side * 0.4, gap=0.4)
        case "people":
            for _ in range(int(strip.rng.integers(1, 3))):
                strip.add(
                    "standing_adult", turn=strip.rng.uniform(-np.pi, np.pi), aside=strip.rng.uniform(-1.0, 1.0), gap=0.8
                )
        case "gap":
            strip.skip(3.0, 8.0)
    strip.skip(0.8, 1.8)


def _work_zone(strip: _Strip, side: int) -> None:
    """A taper of cones, a closed section with barriers and workers, often a machine, and cones at the end."""
    rng = strip.rng
    inner = -side  # towards the travel lanes
    for step in range(3):
        strip.add("traffic_cone", aside=inner * (-0.9 + 1.0 * step), turn=rng.uniform(0, _QUARTER_TURN), gap=0.9)
    strip.add("barrier", gap=0.6)
    for _ in range(int(rng.integers(2, 5))):
        begin = strip.cursor
        strip.add("barrier", aside=inner * 1.25, turn=_QUARTER_TURN, gap=0.15)
        end = strip.cursor
        if rng.random() < 0.5:
            strip.cursor = begin + 0.6
            strip.add("worker", aside=-inner * rng.uniform(0.1, 0.9), turn=rng.uniform(-np.pi, np.pi))
            strip.cursor = max(end, strip.cursor)
    if rng.random() < 0.6:
        strip.add("parked_construction_vehicle", turn=rng.choice([0.0, np.pi]), gap=0.8)
    strip.add("barrier", gap=0.8)
    for _ in range(int(rng.integers(1, 4))):
        strip.add("traffic_cone", aside=inner * rng.uniform(-1.0, 1.1), turn=rng.uniform(0, _QUARTER_TURN), gap=0.8)

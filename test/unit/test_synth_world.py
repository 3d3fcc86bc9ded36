"""The world: motion and road by hand; nothing touches anything; every class is near in most frames."""

import itertools

import numpy as np
import pytest
import torch

from bevdistill_ros.core.boxes import iou_bev
from training.synth.motion import STILL, flowing, steady
from training.synth.road import KERB_HEIGHT, CrossSection, Road, ground_mesh, make_road
from training.synth.world import World, make_world

DURATION = 4.5  # [s]
DETECTED = {
    "vehicle.car",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.bus.rigid",
    "vehicle.trailer",
    "movable_object.barrier",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "human.pedestrian.adult",
    "movable_object.trafficcone",
}


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [make_world(np.random.default_rng(seed), duration=DURATION) for seed in range(4)]


def boxes_of(world: World, time: float, indices: list[int]) -> torch.Tensor:
    poses = [world.actor_pose(index, time) for index in indices]
    rows = [
        [*pose[:3, 3], *world.actors[index].size, np.arctan2(pose[1, 0], pose[0, 0]), 0.0, 0.0]
        for pose, index in zip(poses, indices, strict=True)
    ]
    return torch.tensor(np.array(rows), dtype=torch.float64)


def test_motion_starts_at_zero_and_goes_at_its_speed() -> None:
    walk = steady(-1.5, 3.0)
    assert walk.distance(0.0) == 0.0
    assert walk.distance(2.0) == pytest.approx(-3.0)
    assert walk.distance(-0.4) == pytest.approx(0.6)
    assert walk.speed(1.0) == pytest.approx(-1.5)
    assert STILL.distance(5.0) == STILL.speed(5.0) == 0.0


@pytest.mark.parametrize("direction", [1, -1])
def test_traffic_keeps_its_direction_and_its_limit(direction: int) -> None:
    for seed in range(20):
        motion = flowing(np.random.default_rng(seed), 8.0, direction=direction)
        speeds = direction * np.gradient(motion.distances, motion.times)
        assert speeds.min() >= -1e-9
        assert speeds.max() <= 12.0 + 1e-6
        assert motion.distance(0.0) == pytest.approx(0.0, abs=1e-9)


def test_some_traffic_stops() -> None:
    stops = [flowing(np.random.default_rng(seed), 9.0, direction=1, stop_share=1.0) for seed in range(10)]
    assert any((np.diff(motion.distances) == 0).any() for motion in stops)


def test_straight_road_by_hand() -> None:
    """A road along global +y from (5, 0): its left is global -x."""
    along = np.arange(0.0, 11.0)
    road = Road(
        along=along,
        x=np.full(11, 5.0),
        y=along,
        heading=np.full(11, np.pi / 2),
        section=CrossSection(num_lanes=2, lane=3.5),
    )
    np.testing.assert_allclose(road.pose(4.5, 2.0), [3.0, 4.5, np.pi / 2])
    np.testing.assert_allclose(road.pose(np.array([1.0, 2.0]), -1.0)[:, :2], [[6.0, 1.0], [6.0, 2.0]])
    section = road.section
    assert section.lane_centre(1) == pytest.approx(5.25)
    assert section.cycle_centre == pytest.approx(7.85)
    assert section.parking_centre == pytest.approx(10.3)
    assert section.kerb == pytest.approx(11.9)


def test_road_heading_is_its_tangent_and_along_is_its_length() -> None:
    for seed in range(5):
        road = make_road(np.random.default_rng(seed), begin=-50.0, end=200.0)
        step = np.diff(np.column_stack([road.x, road.y]), axis=0)
        np.testing.assert_allclose(np.linalg.norm(step, axis=1), np.diff(road.along), rtol=1e-6)
        tangent = np.unwrap(np.arctan2(step[:, 1], step[:, 0]))
        middle = (road.heading[1:] + road.heading[:-1]) / 2
        np.testing.assert_allclose(np.cos(tangent - middle), 1.0, atol=1e-9)
        assert np.abs(np.diff(road.heading)).max() < 1 / 200  # gentler than a radius of 200 m


def test_ground_is_level_and_knows_where_it_is() -> None:
    road = make_road(np.random.default_rng(0), begin=0.0, end=80.0)
    mesh = ground_mesh(road)
    heights = mesh.triangles[..., 2]
    assert heights.min() == 0.0
    assert heights.max() == pytest.approx(KERB_HEIGHT)
    places = road.pose(mesh.texture[..., 0].astype(np.float64), mesh.texture[..., 1].astype(np.float64))[..., :2]
    textured = np.abs(mesh.texture).sum(axis=(1, 2)) > 0
    np.testing.assert_allclose(places[textured], mesh.triangles[textured][..., :2], atol=2e-3)


def test_nothing_touches_anything(worlds: list[World]) -> None:
    """Overlaps of all pairs closer than 14 m, and of each with the ego vehicle, at times over the scene."""
    for world, time in itertools.product(worlds, (-0.4, 1.7, DURATION)):
        indices = world.near(time, 80.0)
        ego = world.ego_pose(time)
        yaw = np.arctan2(ego[1, 0], ego[0, 0])
        centre = ego[:3, 3] + ego[:3, 0] * 1.3
        own = torch.tensor([[*centre, 4.6, 1.9, 1.6, yaw, 0, 0]], dtype=torch.float64)
        boxes = torch.cat([own, boxes_of(world, time, indices)])
        first, second = torch.triu_indices(len(boxes), len(boxes), offset=1)
        close = (boxes[first, :2] - boxes[second, :2]).norm(dim=1) < 14.0
        overlap = iou_bev(boxes[first[close]], boxes[second[close]])
        assert overlap.max() < 1e-6, [
            world.actors[indices[i - 1]].kind.category for i in (first[close][overlap.argmax()],)
        ]


def test_every_class_is_near_in_most_frames(worlds: list[World]) -> None:
    present = dict.fromkeys(DETECTED, 0)
    frames = 0
    for world, time in itertools.product(worlds, (0.0, 2.0, 4.0)):
        ego = world.ego_pose(time)[:2, 3]
        near = {
            world.actors[index].kind.category
            for index in world.near(time, 60.0)
            if np.linalg.norm(world.actor_pose(index, time)[:2, 3] - ego) < 40.0
        }
        frames += 1
        for name in DETECTED & near:
            present[name] += 1
    assert min(present.values()) >= 0.5 * frames, present
    assert present["vehicle.car"] == frames


def test_actors_stand_on_their_floor_and_head_along_their_way(worlds: list[World]) -> None:
    for world in worlds:
        for index in world.near(1.0, 60.0):
            actor = world.actors[index]
            pose = world.actor_pose(index, 1.0)
            assert pose[2, 3] - actor.size[2] / 2 == pytest.approx(actor.floor)
            step = (world.actor_pose(index, 1.1) - pose)[:3, 3]
            if np.linalg.norm(step) > 0.05:
                assert step @ pose[:3, 0] > 0.99 * np.linalg.norm(step)


def test_attributes_follow_the_state(worlds: list[World]) -> None:
    for actor in itertools.chain.from_iterable(world.actors for world in worlds):
        attribute, speed = actor.attribute(1.0), abs(actor.motion.speed(1.0))
        if actor.kind.category.startswith("movable_object"):
            assert attribute == ""
        elif actor.kind.category in ("vehicle.bicycle", "vehicle.motorcycle"):
            assert attribute == ("cycle.without_rider" if actor.motion is STILL else "cycle.with_rider")
        elif actor.kind.category.startswith("vehicle"):
            assert (attribute == "vehicle.moving") == (speed > 0.2)
            assert (attribute == "vehicle.parked") == (actor.motion is STILL)
        else:
            assert (attribute == "pedestrian.moving") == (speed > 0.2)


def test_same_seed_same_world() -> None:
    first, second = (make_world(np.random.default_rng(7), duration=2.0) for _ in range(2))
    np.testing.assert_array_equal(first.scenery.triangles, second.scenery.triangles)
    np.testing.assert_array_equal(first.ego_pose(1.0), second.ego_pose(1.0))
    assert [actor.start for actor in first.actors] == [actor.start for actor in second.actors]


def test_ego_pose_is_upright_on_the_road(worlds: list[World]) -> None:
    for world in worlds:
        pose = world.ego_pose(1.3)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert pose[2, 3] == 0.0
        assert pose[2, 2] == 1.0
        moved = world.ego_pose(1.4)[:3, 3] - pose[:3, 3]
        assert np.linalg.norm(moved) == pytest.approx(0.1 * world.ego_motion.speed(1.35), abs=0.03)

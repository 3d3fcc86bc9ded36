"""Cameras, LiDAR and the ray caster: by hand, and against each other in a drawn world."""

import numpy as np
import pytest

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from training.synth.lidar import LidarModel, Sweep, beam_directions, scan
from training.synth.light import Light, draw_light
from training.synth.mesh import EMPTY, Material, quads
from training.synth.rays import MISS, RayCaster, Surfaces
from training.synth.render import Picture, camera_rays, take_picture
from training.synth.rig import LIDAR_ELEVATIONS, Camera, ego_from_lidar, nuscenes_cameras
from training.synth.shading import noise_table, sky
from training.synth.world import Snapshot, World, make_world, moving, resting

TIME = 1.0  # [s]
PERFECT = LidarModel(columns=360, max_range=80.0, noise=0.0, dropout=0.0)


def plate(x: float, half: float, owner: int) -> Surfaces:
    """A square across the x axis at `x` [m]."""
    corners = np.array([[[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]]])
    return Surfaces(Snapshot(mesh=quads(corners, (0.5, 0.5, 0.5)), owners=np.full(2, owner, dtype=np.int32)))


NOTHING = Surfaces(Snapshot(mesh=EMPTY, owners=np.zeros(0, dtype=np.int32)))


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(np.random.default_rng(5), duration=2.0)


@pytest.fixture(scope="module")
def caster(world: World) -> RayCaster:
    return RayCaster(Surfaces(resting(world)), Surfaces(moving(world, TIME, 90.0)))


@pytest.fixture(scope="module")
def cameras() -> tuple[Camera, ...]:
    return nuscenes_cameras(width=160, height=90)


@pytest.fixture(scope="module")
def pictures(world: World, caster: RayCaster, cameras: tuple[Camera, ...]) -> dict[str, Picture]:
    noise = noise_table(np.random.default_rng(0))
    return {
        camera.name: take_picture(
            caster,
            camera,
            world.ego_pose(TIME),
            light=world.light,
            section=world.road.section,
            noise=noise,
            rng=np.random.default_rng(1),
        )
        for camera in cameras
    }


@pytest.fixture(scope="module")
def sweep(world: World, caster: RayCaster) -> Sweep:
    return scan(caster, world.ego_pose(TIME), PERFECT, np.random.default_rng(2))


def in_actor(world: World, points: np.ndarray, index: int) -> np.ndarray:
    """Points (P, 3) of the global frame in the frame of an actor's box."""
    pose = world.actor_pose(index, TIME)
    return (points - pose[:3, 3]) @ pose[:3, :3]


def test_nearest_of_both_parts_wins() -> None:
    origins, directions = np.zeros((3, 3)), np.array([[1.0, 0, 0], [1.0, 0.3, 0], [-1.0, 0, 0]])
    for near, far in ((plate(5.0, 1.0, 1), plate(8.0, 4.0, 2)), (plate(8.0, 4.0, 2), plate(5.0, 1.0, 1))):
        both = RayCaster(near, far)
        hits = both.cast(origins, directions)
        np.testing.assert_allclose(hits.distances[:2], [5.0, 8.0], rtol=1e-5)
        np.testing.assert_array_equal(both.owners_of(hits), [1, 2, MISS])
    alone = RayCaster(plate(5.0, 1.0, 1), NOTHING)
    np.testing.assert_array_equal(alone.owners_of(alone.cast(origins, directions)), [1, MISS, MISS])


def test_weights_are_those_of_the_hit_triangle() -> None:
    """Interpolating the corners by the weights gives the hit point."""
    caster = RayCaster(plate(5.0, 3.0, 1), plate(7.0, 9.0, 2))
    directions = np.column_stack([np.ones(50), np.random.default_rng(0).uniform(-1, 1, (50, 2))])
    hits = caster.cast(np.zeros((50, 3)), directions)
    corners, weights = caster.mesh.triangles[hits.triangles], hits.weights
    points = corners[:, 0] * (1 - weights.sum(axis=1, keepdims=True))
    points = points + corners[:, 1] * weights[:, :1] + corners[:, 2] * weights[:, 1:]
    np.testing.assert_allclose(points, directions * hits.distances[:, None], atol=1e-4)


def test_normals_face_the_ray_and_shadows_fall_behind() -> None:
    caster = RayCaster(plate(5.0, 1.0, 1), plate(8.0, 4.0, 2))
    normals = caster.facing_normals(np.array([0, 2]), np.array([[1.0, 0, 0], [-1.0, 0, 0]]))
    np.testing.assert_allclose(normals, [[-1, 0, 0], [1, 0, 0]], atol=1e-6)
    points = np.array([[8.0, 0.0, 0.0], [8.0, 3.0, 0.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]])
    facing = np.array([[-1.0, 0, 0], [-1, 0, 0], [-1, 0, 0], [1, 0, 0]])
    lit = caster.is_lit(points, facing, np.array([-1.0, 0.0, 0.0]))
    np.testing.assert_array_equal(lit, [False, True, True, False])


def test_rig_is_the_six_cameras_in_order_and_looks_outwards() -> None:
    cameras = nuscenes_cameras(width=1600, height=900)
    assert tuple(camera.name for camera in cameras) == NUSCENES_CAMERAS
    yaws = {camera.name: np.degrees(np.arctan2(*camera.ego_from_camera[[1, 0], 2])) for camera in cameras}
    for name, yaw in (("FRONT", 0), ("FRONT_LEFT", 55), ("FRONT_RIGHT", -55), ("BACK_LEFT", 110), ("BACK_RIGHT", -110)):
        assert yaws[f"CAM_{name}"] == pytest.approx(yaw, abs=2)
    assert abs(yaws["CAM_BACK"]) == pytest.approx(180, abs=1)
    for camera in cameras:
        np.testing.assert_allclose(
            camera.ego_from_camera[:3, :3].T @ camera.ego_from_camera[:3, :3], np.eye(3), atol=1e-12
        )
        assert camera.ego_from_camera[2, 1] < -0.99  # image rows go down
    assert next(camera.delay_us for camera in cameras if camera.name == "CAM_FRONT") == 0
    assert max(abs(camera.delay_us) for camera in cameras) <= 20_000


def test_intrinsics_scale_about_pixel_centres_and_cut_at_the_top() -> None:
    full = nuscenes_cameras(width=1600, height=900)[1]
    small = nuscenes_cameras(width=320, height=128)[1]
    ray = np.array([0.1, 0.2, 1.0])
    u, v, _ = full.intrinsics @ ray
    expected = [0.2 * (u + 0.5) - 0.5, 0.2 * (v + 0.5) - 0.5 - 52.0]
    np.testing.assert_allclose((small.intrinsics @ ray)[:2], expected)


def test_rays_are_the_inverse_of_the_projection(world: World, cameras: tuple[Camera, ...]) -> None:
    pixels = np.array([[0.0, 0.0], [159.0, 89.0], [40.5, 20.25]])
    for camera in cameras:
        origins, directions = camera_rays(camera, world.ego_pose(TIME), pixels)
        points = origins + 7.0 * directions
        camera_from_global = np.linalg.inv(world.ego_pose(TIME) @ camera.ego_from_camera)
        local = points @ camera_from_global[:3, :3].T + camera_from_global[:3, 3]
        np.testing.assert_allclose(local[:, 2], 7.0, atol=2e-3)
        back = local @ camera.intrinsics.T
        np.testing.assert_allclose(back[:, :2] / back[:, 2:], pixels, atol=0.05)


def test_what_pixels_show_lies_in_the_box_of_their_owner(
    world: World, cameras: tuple[Camera, ...], pictures: dict[str, Picture]
) -> None:
    checked = 0
    for camera in cameras:
        picture = pictures[camera.name]
        for owner in np.unique(picture.owners[picture.owners > 0]):
            rows, columns = np.nonzero(picture.owners == owner)
            origins, directions = camera_rays(camera, world.ego_pose(TIME), np.column_stack([columns, rows]))
            points = origins + picture.depth[rows, columns, None] * directions
            local = in_actor(world, points, int(owner) - 1)
            assert (np.abs(local) <= world.actors[owner - 1].size / 2 + 0.02).all()
            checked += len(rows)
    assert checked > 2000


def test_picture_has_sky_above_road_below_and_contrast(pictures: dict[str, Picture]) -> None:
    for picture in pictures.values():
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape == (90, 160, 3)
        assert picture.pixels.std() > 15
        assert 30 < picture.pixels.mean() < 225
        assert np.isfinite(picture.depth[-1]).all()
        np.testing.assert_array_equal(picture.owners == MISS, np.isinf(picture.depth))
    assert any((picture.owners[:20] == MISS).any() for picture in pictures.values())


def test_beams_are_a_clockwise_turn_of_32_elevations() -> None:
    beams = beam_directions(8)
    assert beams.shape == (8, 32, 3)
    np.testing.assert_allclose(np.linalg.norm(beams, axis=-1), 1.0)
    np.testing.assert_allclose(np.arcsin(beams[3, :, 2]), LIDAR_ELEVATIONS)
    azimuth = np.unwrap(np.arctan2(beams[:, 0, 1], beams[:, 0, 0]))
    np.testing.assert_allclose(np.diff(azimuth), -np.pi / 4)
    np.testing.assert_allclose(np.degrees(LIDAR_ELEVATIONS[[0, -1]]), [-30.67, 10.67])


def test_lidar_over_a_plain_has_the_range_of_its_height() -> None:
    """The lowest ring meets level ground at height / sin(elevation); rings above the horizon meet nothing."""
    corners = np.array([[[-500.0, -500, 0], [500, -500, 0], [500, 500, 0], [-500, 500, 0]]])
    ground = Surfaces(Snapshot(mesh=quads(corners, (0.4, 0.4, 0.4)), owners=np.zeros(2, dtype=np.int32)))
    points = scan(RayCaster(ground, NOTHING), np.eye(4), PERFECT, np.random.default_rng(0)).points
    ranges = np.linalg.norm(points[:, :3], axis=1)
    lowest = points[:, 4] == 0
    np.testing.assert_allclose(ranges[lowest], 1.84 / np.sin(np.radians(30.67)), rtol=1e-4)
    assert lowest.sum() > 200
    assert set(np.unique(points[:, 4])) <= set(np.flatnonzero(LIDAR_ELEVATIONS < 0))
    np.testing.assert_allclose(points[:, 2], -1.84, atol=1e-3)


def test_lidar_is_mounted_x_right_y_forward() -> None:
    transform = ego_from_lidar()
    np.testing.assert_allclose(transform[:3, 1], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(transform[:3, 0], [0, -1, 0], atol=1e-12)


def test_noise_widens_and_dropout_thins() -> None:
    caster = RayCaster(plate(10.0, 50.0, 1), NOTHING)
    model = LidarModel(columns=720, max_range=80.0, noise=0.05, dropout=0.5)
    clean = scan(caster, np.eye(4), PERFECT, np.random.default_rng(0))
    noisy = scan(caster, np.eye(4), model, np.random.default_rng(0))
    assert len(noisy.points) / (2 * len(clean.points)) == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(clean.points[:, 1], 10.0 - 0.94, atol=1e-3)
    lidar_from_plate = noisy.points[:, :3] / np.linalg.norm(noisy.points[:, :3], axis=1, keepdims=True)
    error = (noisy.points[:, 1] - 9.06) / lidar_from_plate[:, 1]
    assert error.std() == pytest.approx(0.05, rel=0.15)


def test_retro_reflectors_are_bright_and_values_are_in_range(sweep: Sweep) -> None:
    corners = np.array([[[10.0, -5, -5], [10, 5, -5], [10, 5, 5], [10, -5, 5]]])
    bright = {}
    for material in (Material.MATTE, Material.RETRO):
        snapshot = Snapshot(mesh=quads(corners, (0.4, 0.4, 0.4), material), owners=np.ones(2, dtype=np.int32))
        points = scan(RayCaster(Surfaces(snapshot), NOTHING), np.eye(4), PERFECT, np.random.default_rng(0)).points
        bright[material] = points[:, 3].mean()
    assert bright[Material.RETRO] > 2 * bright[Material.MATTE]
    assert sweep.points.dtype == np.float32
    assert 0 <= sweep.points[:, 3].min() <= sweep.points[:, 3].max() <= 255
    assert set(np.unique(sweep.points[:, 4])) <= set(range(32))


def test_points_lie_in_the_box_of_their_owner(world: World, sweep: Sweep) -> None:
    pose = world.ego_pose(TIME) @ ego_from_lidar()
    points = sweep.points[:, :3] @ pose[:3, :3].T + pose[:3, 3]
    owners = np.unique(sweep.owners[sweep.owners > 0])
    assert len(owners) > 10
    for owner in owners:
        local = in_actor(world, points[sweep.owners == owner], int(owner) - 1)
        assert (np.abs(local) <= world.actors[owner - 1].size / 2 + 0.02).all()


def test_cameras_and_lidar_see_the_same(
    world: World, cameras: tuple[Camera, ...], pictures: dict[str, Picture], sweep: Sweep
) -> None:
    """A point that a camera sees, by depth, falls on a pixel of the same owner."""
    agree = total = 0
    for camera in cameras:
        camera_from_lidar = np.linalg.inv(camera.ego_from_camera) @ ego_from_lidar()
        local = sweep.points[:, :3] @ camera_from_lidar[:3, :3].T + camera_from_lidar[:3, 3]
        projected = local @ camera.intrinsics.T
        pixels = np.rint(projected[:, :2] / np.maximum(projected[:, 2:], 1e-3)).astype(np.int64)
        inside = (local[:, 2] > 1.0) & ((pixels >= 0) & (pixels < [camera.width, camera.height])).all(axis=1)
        columns, rows = pixels[inside].T
        picture = pictures[camera.name]
        in_sight = np.abs(picture.depth[rows, columns] - local[inside, 2]) < 0.1
        total += int(in_sight.sum())
        agree += int((picture.owners[rows, columns] == sweep.owners[inside])[in_sight].sum())
    assert total > 1000
    assert agree > 0.97 * total


def test_light_is_daylight() -> None:
    for seed in range(20):
        light: Light = draw_light(np.random.default_rng(seed))
        assert np.linalg.norm(light.sun_direction) == pytest.approx(1.0)
        assert light.sun_direction[2] > np.sin(np.radians(14))
        assert (sky(np.array([[1.0, 0, 0], [0, 0, 1.0]], dtype=np.float32), light) > 0).all()
    table = noise_table(np.random.default_rng(0))
    assert table.mean() == pytest.approx(0.0, abs=1e-4)
    assert table.std() == pytest.approx(1.0, rel=1e-3)

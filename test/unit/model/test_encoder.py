import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model import geometry
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.encoder import BevEncoder, line_embedding
from bevdistill_ros.model.geometry import (
    Capacity,
    GeometryFinder,
    VisiblePillars,
    bev_warp,
    ego_motion,
    pillar_points,
    visible_pillars,
)
from bevdistill_ros.model.layers import maps_of
from bevdistill_ros.model.records import BevMemory, CameraInput
from bevdistill_ros.model.spatial_attention import SpatialCrossAttention
from bevdistill_ros.model.temporal_attention import TemporalSelfAttention, warp_bev

SIZE = (32, 64)


def motion_of(x: float, y: float, yaw: float) -> Tensor:
    """previous_from_current (1, 4, 4) of a vehicle that drove to (x, y) and turned by yaw since."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose[0, 3], pose[1, 3] = x, y
    return pose[None]


def warped_by(bev: Tensor, motion: Tensor, grid: BevGrid) -> Tensor:
    """A BEV map as it looks from an ego frame that moved."""
    return warp_bev(bev, bev_warp(motion, torch.ones(len(motion), dtype=torch.bool), grid))


class TestPillars:
    def test_points_stand_in_slices_of_the_height_over_cell_centres(self) -> None:
        grid = BevGrid(x_min=0, x_max=4, y_min=10, y_max=14, z_min=-3, z_max=5, rows=2, cols=4)
        points = pillar_points(grid, 4)
        assert points.shape == (8, 4, 3)
        assert points[1, :, 2].tolist() == [-2.0, 0.0, 2.0, 4.0]
        assert points[1, 0, :2].tolist() == [1.5, 11.0]
        assert points[4, 0, :2].tolist() == [0.5, 13.0]

    def test_visibility_equals_slow_loops(self, grid: BevGrid, make_cameras: Callable[..., CameraInput]) -> None:
        cameras = make_cameras(2)
        cameras.valid[1, 0] = False
        points = pillar_points(grid, 3)
        visible = visible_pillars(points, cameras.image_from_ego, cameras.valid, SIZE)
        times_seen = torch.zeros(2, len(points), dtype=torch.int64)
        for b in range(2):
            for n in range(3):
                expected = self.slow_camera(points, cameras.image_from_ego[b, n], bool(cameras.valid[b, n]))
                count = int(visible.present[b, n].sum())
                assert visible.index[b, n, :count].tolist() == list(expected)
                assert not visible.seen[b, n, count:].any()
                for slot, (pillar, places) in enumerate(expected.items()):
                    times_seen[b, pillar] += 1
                    assert visible.seen[b, n, slot].tolist() == [place is not None for place in places]
                    for height, place in enumerate(places):
                        if place is not None:
                            assert visible.places[b, n, slot, height].tolist() == pytest.approx(place, abs=1e-4)
        assert torch.equal(visible.num_cameras, times_seen)
        assert int(visible.present[1, 0].sum()) == 0
        assert bool(visible.seen.any(-1)[visible.present].all())
        assert not bool(visible.seen[visible.present].all())  # some pillars are seen in part, or the test is too easy

    @staticmethod
    def slow_camera(points: Tensor, projection: Tensor, valid: bool) -> dict[int, list[tuple[float, float] | None]]:
        found = {}
        for pillar in range(len(points)):
            places: list[tuple[float, float] | None] = []
            for point in points[pillar]:
                u, v, depth, _ = (projection.double() @ torch.cat([point.double(), torch.ones(1)])).tolist()
                inside = valid and depth > 0.1 and -0.5 <= u / depth < 63.5 and -0.5 <= v / depth < 31.5
                places.append(((u / depth + 0.5) / 64, (v / depth + 0.5) / 32) if inside else None)
            if any(place is not None for place in places):
                found[pillar] = places
        return found


class TestSpatialCrossAttention:
    @pytest.fixture
    def attention(self, shake: Callable[[nn.Module], None]) -> SpatialCrossAttention:
        attention = SpatialCrossAttention(embed_dim=8, num_heads=2, num_levels=2, num_heights=3, points_per_height=2)
        shake(attention)
        return attention

    def test_equals_slow_loops(
        self, attention: SpatialCrossAttention, grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        cameras = make_cameras(2)
        cameras.valid[0, 1] = False
        points = pillar_points(grid, 3)[30:60]
        visible = visible_pillars(points, cameras.image_from_ego, cameras.valid, SIZE)
        query = torch.randn(2, len(points), 8)
        levels = [torch.randn(6, 8, 8, 16), torch.randn(6, 8, 4, 8)]
        with torch.no_grad():
            found = attention(query, visible, levels)
            expected = self.slow(attention, query, visible, levels)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)

    @staticmethod
    def slow(attention: SpatialCrossAttention, query: Tensor, visible: VisiblePillars, levels: list[Tensor]) -> Tensor:
        batch, pillars, channels = query.shape
        summed = torch.zeros(batch, pillars, channels)
        for b, n, slot in visible.present.nonzero().tolist():
            pillar = int(visible.index[b, n, slot])
            one = query[b, pillar]
            offsets = attention.sampling_offsets(one).reshape(2, 2, 3, 2, 2)
            scores = attention.attention_weights(one).reshape(2, 2, 3, 2)
            for head in range(2):
                total, weight_sum = torch.zeros(4), torch.zeros(())
                for level, height, point in ((x, y, z) for x in range(2) for y in range(3) for z in range(2)):
                    if not visible.seen[b, n, slot, height]:
                        continue
                    maps = levels[level][b * 3 + n]
                    value = attention.value_projection(maps.permute(1, 2, 0)).permute(2, 0, 1)[head * 4 : head * 4 + 4]
                    size = torch.tensor([maps.shape[2], maps.shape[1]])
                    place = visible.places[b, n, slot, height] + offsets[head, level, height, point] / size
                    sample = nn.functional.grid_sample(
                        value[None], 2 * place[None, None, None] - 1, align_corners=False
                    )
                    weight = scores[head, level, height, point].exp()
                    total, weight_sum = total + weight * sample[0, :, 0, 0], weight_sum + weight
                summed[b, pillar, head * 4 : head * 4 + 4] += total / weight_sum
        counted = summed / visible.num_cameras.clamp(min=1)[..., None]
        return torch.as_tensor(attention.output_projection(counted))

    @pytest.mark.parametrize("missing", [(), (0,), (0, 1, 2)])
    def test_reading_slots_is_adding_what_each_camera_found(
        self,
        missing: tuple[int, ...],
        attention: SpatialCrossAttention,
        grid: BevGrid,
        make_cameras: Callable[..., CameraInput],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The sum over cameras by scatter, as BEVFormer writes it, on cameras that overlap."""
        cameras, points = make_cameras(2, focal_share=0.2), pillar_points(grid, 3)
        cameras.valid[1, list(missing)] = False
        visible = visible_pillars(points, cameras.image_from_ego, cameras.valid, SIZE)
        assert int(visible.num_cameras.max()) > 1
        found = torch.randn(6, visible.index.shape[-1], 8)
        monkeypatch.setattr(attention, "_sample", lambda *inputs: found)
        with torch.no_grad():
            output = attention(torch.randn(2, len(points), 8), visible, [])
            summed = torch.zeros(2, len(points), 8)
            for item in range(2):
                for camera in range(3):
                    chosen = visible.present[item, camera]
                    summed[item].index_add_(0, visible.index[item, camera][chosen], found[3 * item + camera][chosen])
            mean = summed / visible.num_cameras.clamp(min=1)[..., None]
            torch.testing.assert_close(output, attention.output_projection(mean), atol=1e-6, rtol=0)

    def test_batch_items_use_their_own_cameras(
        self, attention: SpatialCrossAttention, grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        cameras = make_cameras(2)
        cameras.valid[0, 2] = False
        points = pillar_points(grid, 3)
        query, level = torch.randn(2, len(points), 8), torch.randn(6, 8, 8, 16)
        both = attention(query, visible_pillars(points, cameras.image_from_ego, cameras.valid, SIZE), [level, level])
        for item in range(2):
            one, three = slice(item, item + 1), slice(3 * item, 3 * item + 3)
            visible = visible_pillars(points, cameras.image_from_ego[one], cameras.valid[one], SIZE)
            alone = attention(query[one], visible, [level[three], level[three]])
            torch.testing.assert_close(both[one], alone, atol=1e-5, rtol=1e-5)

    def test_without_cameras_there_is_only_the_bias(
        self, attention: SpatialCrossAttention, grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        cameras = make_cameras(1)
        points = pillar_points(grid, 3)
        visible = visible_pillars(points, cameras.image_from_ego, torch.zeros(1, 3, dtype=torch.bool), SIZE)
        found = attention(torch.randn(1, len(points), 8), visible, [torch.randn(3, 8, 8, 16)] * 2)
        torch.testing.assert_close(found, attention.output_projection.bias.expand_as(found))

    def test_what_the_cameras_see_is_not_changed(
        self, attention: SpatialCrossAttention, grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        cameras, points = make_cameras(1), pillar_points(grid, 3)
        visible = visible_pillars(points, cameras.image_from_ego, cameras.valid, SIZE)
        before = {name: value.clone() for name, value in vars(visible).items()}
        attention(torch.randn(1, len(points), 8), visible, [torch.randn(3, 8, 8, 16)] * 2)
        assert all(torch.equal(value, before[name]) for name, value in vars(visible).items())


class TestGeometryFinder:
    @pytest.fixture
    def counted(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """How often pillars were projected."""
        calls: list[int] = []

        def find(points: Tensor, image_from_ego: Tensor, *rest: Any) -> VisiblePillars:
            calls.append(len(image_from_ego))
            return visible_pillars(points, image_from_ego, *rest)

        monkeypatch.setattr(geometry, "visible_pillars", find)
        return calls

    def test_a_rig_is_projected_once(
        self, counted: list[int], grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        finder, cameras = GeometryFinder(grid, 3, SIZE), make_cameras(2)
        first = finder.of(cameras).visible
        again = finder.of(
            replace(cameras, image_from_ego=cameras.image_from_ego.clone(), valid=cameras.valid.clone())
        ).visible
        assert again is first
        assert counted == [2]
        expected = visible_pillars(pillar_points(grid, 3), cameras.image_from_ego, cameras.valid, SIZE)
        assert all(torch.equal(value, vars(expected)[name]) for name, value in vars(first).items())

    @pytest.mark.parametrize("change", ["moved", "missing", "fewer", "in place"])
    def test_another_rig_is_projected_again(
        self, change: str, counted: list[int], grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        finder, cameras = GeometryFinder(grid, 3, SIZE), make_cameras(2)
        projection, valid = cameras.image_from_ego, cameras.valid
        finder.of(cameras)
        if change == "moved":
            projection = projection.clone()
            projection[1, 2, 0, 3] += 1e-3
        elif change == "missing":
            valid = valid.clone()
            valid[0, 1] = False
        elif change == "fewer":
            projection, valid = projection[:1], valid[:1]
        else:
            projection[0, 0, 0, 3] += 5.0
        found = finder.of(replace(cameras, image_from_ego=projection, valid=valid)).visible
        assert len(counted) == 2
        expected = visible_pillars(pillar_points(grid, 3), projection, valid, SIZE)
        assert all(torch.equal(value, vars(expected)[name]) for name, value in vars(found).items())

    def test_frames_of_a_student_share_it(
        self, counted: list[int], make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
    ) -> None:
        student = make_student()
        for _ in range(3):
            student(make_cameras(1))
        assert counted == [1]

    def test_what_inference_found_serves_a_training_step(
        self, make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
    ) -> None:
        student = make_student()
        with torch.inference_mode():
            student(make_cameras(1))
        student(make_cameras(1)).bev.sum().backward()

    def test_padding_changes_no_result(
        self, make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
    ) -> None:
        student, cameras = make_student(), make_cameras(2)
        cameras.valid[1, 2] = False
        tight = student.geometry.of(cameras)
        wide = student.geometry.of(cameras, least=Capacity(pillars=90, cameras=3))
        assert wide.visible.index.shape == (2, 3, 90)
        assert wide.visible.slots.shape == (2, 96, 3)
        with torch.no_grad():
            expected, found = (student.network(cameras.images, geometry) for geometry in (tight, wide))
        torch.testing.assert_close(found.bev, expected.bev, atol=1e-6, rtol=0)
        torch.testing.assert_close(found.predictions.logits, expected.predictions.logits, atol=1e-6, rtol=0)

    def test_a_rig_that_sees_more_than_the_capacity_gets_more(
        self, grid: BevGrid, make_cameras: Callable[..., CameraInput]
    ) -> None:
        finder, cameras = GeometryFinder(grid, 3, SIZE), make_cameras(2)
        tight = finder.of(cameras)
        narrow = finder.of(cameras, least=Capacity(pillars=2))
        assert torch.equal(narrow.visible.index, tight.visible.index)

    def test_only_visible_pairs_are_sampled(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        """Of all pairs of a camera and a pillar, padding to the camera that sees most is the only excess."""
        cameras = make_cameras(1)
        visible = visible_pillars(pillar_points(grid, 3), cameras.image_from_ego, cameras.valid, SIZE)
        seen = visible.present.sum(-1)
        assert visible.index.shape[-1] == int(seen.max()) < 0.5 * grid.rows * grid.cols


class TestWarp:
    def test_standing_still_changes_nothing(self, grid: BevGrid) -> None:
        bev = torch.randn(2, 5, grid.rows, grid.cols)
        far = motion_of(123456.789, -98765.4321, 2.1).repeat(2, 1, 1)
        torch.testing.assert_close(warped_by(bev, ego_motion(far, far), grid), bev, atol=1e-6, rtol=0)

    def test_standing_still_changes_nothing_on_the_full_grid(self) -> None:
        bev = torch.randn(1, 3, 128, 128)
        still = torch.eye(4, dtype=torch.float64)[None]
        torch.testing.assert_close(warped_by(bev, still, BevGrid()), bev, atol=1e-6, rtol=0)

    def test_driving_ahead_moves_the_map_back(self, grid: BevGrid) -> None:
        bev = torch.zeros(1, 1, 8, 12)
        bev[0, 0, 3, 7] = 1.0
        # 4 m ahead and 2 m to the left are two columns and one row of 2 m.
        warped = warped_by(bev, motion_of(4.0, 2.0, 0.0), grid)
        expected = torch.zeros(1, 1, 8, 12)
        expected[0, 0, 2, 5] = 1.0
        torch.testing.assert_close(warped, expected, atol=1e-6, rtol=0)

    @pytest.mark.parametrize(("x", "y", "yaw"), [(0.0, 0.0, math.pi / 2), (3.0, -1.0, -0.7), (-1.5, 2.0, 2.4)])
    def test_a_thing_in_the_world_stays_where_it_is(self, x: float, y: float, yaw: float) -> None:
        """The grid is off-centre, so a turn about the middle of the map would put it elsewhere."""
        grid = BevGrid(x_min=-8.0, x_max=16.0, y_min=-10.0, y_max=10.0, rows=80, cols=96)
        current = torch.tensor([2.0, 3.0], dtype=torch.float64)
        motion = motion_of(x, y, yaw)
        previous = motion[0, :2, :2] @ current + motion[0, :2, 3]
        centres = grid.cell_centres().double()
        bev = (-(centres - previous).square().sum(-1) / 2).exp().float()[None, None]
        expected = (-(centres - current).square().sum(-1) / 2).exp().float()[None, None]
        torch.testing.assert_close(warped_by(bev, motion, grid), expected, atol=0.02, rtol=0)

    def test_each_item_moves_by_itself(self, grid: BevGrid) -> None:
        bev = torch.randn(2, 4, grid.rows, grid.cols)
        motion = torch.cat([motion_of(1.0, 0.5, 0.3), motion_of(-2.0, 0.1, -0.2)])
        both = warped_by(bev, motion, grid)
        for item in range(2):
            one = slice(item, item + 1)
            torch.testing.assert_close(both[one], warped_by(bev[one], motion[one], grid))

    def test_beyond_the_old_map_there_is_nothing(self, grid: BevGrid) -> None:
        warped = warped_by(torch.ones(1, 1, 8, 12), motion_of(100.0, 0.0, 0.0), grid)
        assert not warped.any()

    def test_motion_is_read_from_global_poses(self) -> None:
        previous, current = motion_of(100.0, 50.0, math.pi / 2), motion_of(100.0, 53.0, math.pi / 2)
        # Facing along +y, three metres along +y are three metres ahead.
        torch.testing.assert_close(ego_motion(previous, current), motion_of(3.0, 0.0, 0.0), atol=1e-9, rtol=0)


def encoder_of(grid: BevGrid, shake: Callable[[nn.Module], None], *, temporal: bool) -> BevEncoder:
    torch.manual_seed(0)
    encoder = BevEncoder(
        grid=grid,
        embed_dim=16,
        num_heads=2,
        num_layers=2,
        num_levels=2,
        num_heights=3,
        points_per_height=1,
        bev_points=2,
        feedforward_dim=20,
        dropout=0.0,
        temporal=temporal,
    )
    shake(encoder)
    return encoder.eval()


def encoded(encoder: BevEncoder, levels: list[Tensor], cameras: CameraInput, past: BevMemory | None) -> Tensor:
    """The BEV of frames, with their geometry computed as the student does."""
    geometry = GeometryFinder(encoder.grid, 3, SIZE).of(cameras, past)
    return torch.as_tensor(encoder(levels, geometry, past and past.bev))


def image_levels(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3 * batch, 16, *size, generator=generator) for size in ((8, 16), (4, 8))]


def memory_of(grid: BevGrid, batch: int, present: list[bool]) -> BevMemory:
    generator = torch.Generator().manual_seed(2)
    poses = torch.cat([motion_of(400.0 - item, 999.0, 0.1 * item) for item in range(batch)])
    return BevMemory(
        bev=torch.randn(batch, 16, grid.rows, grid.cols, generator=generator),
        global_from_ego=poses,
        present=torch.tensor(present),
    )


def item_of(record: CameraInput, item: int) -> CameraInput:
    one = slice(item, item + 1)
    return CameraInput(
        images=record.images[one],
        image_from_ego=record.image_from_ego[one],
        valid=record.valid[one],
        global_from_ego=record.global_from_ego[one],
    )


class TestTemporal:
    def test_places_and_weights_follow_from_both_maps(self, shake: Callable[[nn.Module], None]) -> None:
        attention = TemporalSelfAttention(embed_dim=8, num_heads=2, num_points=2)
        shake(attention)
        query, reference = torch.randn(1, 12, 8), torch.rand(1, 12, 2)
        current, previous = torch.randn(1, 8, 3, 4), torch.randn(1, 8, 3, 4)
        both = torch.cat([previous.flatten(2).transpose(1, 2), query], dim=-1)
        offsets = attention.sampling_offsets(both).reshape(12, 2, 2, 2, 2)
        weights = attention.attention_weights(both).reshape(12, 2, 2, 2).softmax(-1)
        sampled = torch.zeros(12, 8)
        for index, entry in enumerate((previous, current)):
            projection = (attention.past_projection, attention.value_projection)[index]
            value = maps_of(projection(entry.flatten(2).transpose(1, 2)), 3, 4)
            for head in range(2):
                place = reference[0][:, None] + offsets[:, head, index] / torch.tensor([4.0, 3.0])
                part = nn.functional.grid_sample(
                    value[:, 4 * head : 4 * head + 4], 2 * place[None] - 1, align_corners=False
                )
                sampled[:, 4 * head : 4 * head + 4] += 0.5 * (part[0] * weights[:, head, index]).sum(-1).T
        expected = attention.output_projection(sampled)[None]
        torch.testing.assert_close(attention(query, reference, [previous, current]), expected, atol=1e-5, rtol=1e-5)

    def test_an_absent_past_is_no_past(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        encoder, cameras, levels = encoder_of(grid, shake, temporal=True), make_cameras(2), image_levels(2)
        without = encoded(encoder, levels, cameras, None)
        some = encoded(encoder, levels, cameras, memory_of(grid, 2, [False, True]))
        torch.testing.assert_close(some[0], without[0], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(some[1], without[1], atol=1e-2)

    def test_garbage_in_an_absent_past_does_no_harm(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        encoder, memory = encoder_of(grid, shake, temporal=True), memory_of(grid, 1, [False])
        broken = replace(memory, bev=torch.full_like(memory.bev, torch.nan))
        assert bool(torch.isfinite(encoded(encoder, image_levels(1), make_cameras(1), broken)).all())

    def test_batch_of_two_is_two_batches_of_one(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        encoder, cameras, levels = encoder_of(grid, shake, temporal=True), make_cameras(2), image_levels(2)
        cameras.valid[1, 1] = False
        memory = memory_of(grid, 2, [True, True])
        both = encoded(encoder, levels, cameras, memory)
        for item in range(2):
            one = slice(item, item + 1)
            past = BevMemory(
                bev=memory.bev[one], global_from_ego=memory.global_from_ego[one], present=memory.present[one]
            )
            alone = encoded(encoder, [level[3 * item : 3 * item + 3] for level in levels], item_of(cameras, item), past)
            torch.testing.assert_close(both[one], alone, atol=1e-5, rtol=1e-5)

    def test_a_student_without_memory_refuses_one(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        encoder = encoder_of(grid, shake, temporal=False)
        with pytest.raises(ValueError, match="must be None, as the student is not temporal"):
            encoded(encoder, image_levels(1), make_cameras(1), memory_of(grid, 1, [True]))

    def test_a_past_of_another_shape_is_refused(
        self, grid: BevGrid, shake: Callable[[nn.Module], None], make_cameras: Callable[..., CameraInput]
    ) -> None:
        encoder = encoder_of(grid, shake, temporal=True)
        with pytest.raises(ValueError, match=r"must be of shape \(1, 16, 8, 12\)"):
            encoded(encoder, image_levels(1), make_cameras(1), memory_of(grid, 2, [True, True]))


def test_the_bev_shows_what_a_camera_sees_where_it_is(grid: BevGrid, make_cameras: Callable[..., CameraInput]) -> None:
    """A change in the front camera's features changes the cells ahead of it and none behind it."""
    torch.manual_seed(0)
    encoder = encoder_of(grid, lambda module: None, temporal=False)
    cameras, levels = make_cameras(1), image_levels(1)
    before = encoded(encoder, levels, cameras, None)
    for level in levels:
        level[0] += 1.0 + torch.rand_like(level[0])
    change = (encoded(encoder, levels, cameras, None) - before).detach().abs().amax(1)[0]
    centres = grid.cell_centres()
    behind = centres[..., 0] < -4.0  # further than self-attention reaches from the cells that the camera sees
    ahead = (centres[..., 0] > 6.0) & (centres[..., 1].abs() < 2.0)
    assert float(change[ahead].min()) > 1e-3
    assert float(change[behind].max()) < 1e-6


def test_line_embedding_is_smooth_and_tells_places_apart() -> None:
    line = line_embedding(64, 32)
    distance = torch.cdist(line, line)
    assert float((distance + 10 * torch.eye(64)).min()) > 0.1
    assert float(distance.diagonal(offset=1).max()) < float(distance[0, 32:].min())

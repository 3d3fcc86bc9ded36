import math
from dataclasses import fields

import pytest
import torch

from bevdistill_ros.core.boxes import corners_3d, points_in_boxes
from bevdistill_ros.core.geometry import invert_rigid, project_points, transform_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.records import CameraInput
from training.data.augment import (
    BevAugment,
    BevAugmentConfig,
    Compose,
    GridMask,
    GridMaskConfig,
    PhotometricAugment,
    PhotometricConfig,
    RangeFilter,
    adjust_colours,
    augment_sample,
    augmented_from_ego,
    grid_of_squares,
)
from training.data.sample import Sample

TRANSFORMS = [
    augmented_from_ego(rotation=rotation, scale=scale, flip_x=flip_x, flip_y=flip_y)
    for rotation, scale, flip_x, flip_y in [
        (0.3, 1.0, False, False),
        (0.0, 1.05, False, False),
        (0.0, 1.0, True, False),
        (0.0, 1.0, False, True),
        (-0.4, 0.95, True, False),
        (0.4, 0.95, False, True),
        (1.0, 1.2, True, True),
    ]
]


def frame_at(x: float, yaw: float) -> CameraInput:
    pose = torch.eye(4, dtype=torch.float64)
    pose[:2, :2] = torch.tensor([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
    pose[:3, 3] = torch.tensor([x, 200.0, 1.0])
    ego_from_camera = torch.tensor([[0.0, 0, 1, 1.5], [-1, 0, 0, 0.2], [0, -1, 0, 1.6], [0, 0, 0, 1]]).double()
    intrinsics = torch.tensor([[50.0, 0, 31.5], [0, 50, 17.5], [0, 0, 1]]).double()
    rig = CameraRig(
        names=("FRONT", "SAME"),
        intrinsics=intrinsics.repeat(2, 1, 1),
        ego_from_camera=ego_from_camera.repeat(2, 1, 1),
        image_size=(36, 64),
    )
    return CameraInput(
        images=torch.randint(1, 255, (1, 2, 3, 36, 64), dtype=torch.uint8),
        image_from_ego=rig.image_from_ego().float()[None],
        valid=torch.tensor([[True, True]]),
        global_from_ego=pose[None],
    )


@pytest.fixture
def sample() -> Sample:
    torch.manual_seed(0)
    points = torch.rand(400, 5) * torch.tensor([60.0, 60, 4, 1, 0.5]) - torch.tensor([30.0, 30, 1, 0, 0])
    boxes = torch.tensor(
        [[12.0, 4.0, 1.0, 14.5, 9.9, 1.6, 0.4, 3.0, 1.0], [-8.0, -6.0, 0.8, 8.7, 10.6, 3.7, -2.9, 0.0, 0.0]]
    )
    return Sample(
        token="token",
        stamp_ns=5,
        cameras=frame_at(103.0, 0.2),
        history=(frame_at(100.0, 0.1),),
        points=points,
        ego_from_lidar=torch.eye(4, dtype=torch.float64),
        boxes=boxes,
        labels=torch.tensor([0, 8]),
        num_lidar_points=torch.tensor([5, 0]),
        box_weights=torch.tensor([1.0, 0.4]),
        annotated=True,
    )


def assert_same(first: Sample, second: Sample, tolerance: float = 0.0) -> None:
    for name in ("points", "boxes", "labels", "num_lidar_points", "box_weights"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name), atol=tolerance, rtol=0, msg=name)
    for one, other in zip((first.cameras, *first.history), (second.cameras, *second.history), strict=True):
        for field in fields(one):
            torch.testing.assert_close(
                getattr(one, field.name), getattr(other, field.name), atol=50 * tolerance, rtol=0, msg=field.name
            )


class TestBevAugment:
    def test_quarter_turn_by_hand(self, sample: Sample) -> None:
        turned = augment_sample(sample, augmented_from_ego(rotation=math.pi / 2, scale=2.0, flip_x=False, flip_y=False))
        expected = torch.tensor([-8.0, 24.0, 2.0, 29.0, 19.8, 3.2, 0.4 + math.pi / 2, -2.0, 6.0])
        torch.testing.assert_close(turned.boxes[0], expected)

    def test_flip_by_hand(self, sample: Sample) -> None:
        flipped = augment_sample(sample, augmented_from_ego(rotation=0.0, scale=1.0, flip_x=False, flip_y=True))
        expected = torch.tensor([12.0, -4.0, 1.0, 14.5, 9.9, 1.6, -0.4, 3.0, -1.0])
        torch.testing.assert_close(flipped.boxes[0], expected)
        flipped = augment_sample(sample, augmented_from_ego(rotation=0.0, scale=1.0, flip_x=True, flip_y=False))
        expected = torch.tensor([-12.0, 4.0, 1.0, 14.5, 9.9, 1.6, math.pi - 0.4, -3.0, 1.0])
        torch.testing.assert_close(flipped.boxes[0], expected)

    def test_mirror_comes_before_the_turn(self) -> None:
        transform = augmented_from_ego(rotation=math.pi / 2, scale=1.0, flip_x=True, flip_y=False)
        torch.testing.assert_close(
            transform[:3, :3] @ torch.tensor([1.0, 0, 0]).double(), torch.tensor([0, -1.0, 0]).double()
        )

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_points_stay_in_their_boxes(self, sample: Sample, transform: torch.Tensor) -> None:
        changed = augment_sample(sample, transform)
        before = points_in_boxes(sample.points[:, :3], sample.boxes)
        assert before.sum() > 10
        assert torch.equal(points_in_boxes(changed.points[:, :3], changed.boxes), before)
        assert torch.equal(changed.ego_from_lidar, sample.ego_from_lidar)  # the world moves, the sensor does not

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_augmented_world_falls_on_the_same_pixels(self, sample: Sample, transform: torch.Tensor) -> None:
        changed = augment_sample(sample, transform)
        for frame, other in zip((sample.cameras, *sample.history), (changed.cameras, *changed.history), strict=True):
            pixels, depth = project_points(frame.image_from_ego[0, 0], sample.points[:, :3])
            moved, moved_depth = project_points(other.image_from_ego[0, 0], changed.points[:, :3])
            ahead = depth > 1.0
            assert ahead.sum() > 100
            torch.testing.assert_close(moved[ahead], pixels[ahead], atol=0.02, rtol=1e-4)
            torch.testing.assert_close(moved_depth, depth, atol=1e-3, rtol=0)

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_augmented_boxes_fall_on_the_same_pixels(self, sample: Sample, transform: torch.Tensor) -> None:
        """A mirror exchanges the corners of a box, so that their order differs."""
        changed = augment_sample(sample, transform)
        pixels, _ = project_points(sample.cameras.image_from_ego[0, 0], corners_3d(sample.boxes[0]))
        moved, _ = project_points(changed.cameras.image_from_ego[0, 0], corners_3d(changed.boxes[0]))
        assert float(torch.cdist(pixels, moved).min(dim=1).values.max()) < 0.02

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_motion_within_the_clip_stays_true(self, sample: Sample, transform: torch.Tensor) -> None:
        """A point of the world, seen from both frames, is carried from one to the other as before."""
        changed = augment_sample(sample, transform)
        now, then = changed.cameras.global_from_ego[0], changed.history[0].global_from_ego[0]
        for pose in (now, then):
            torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3).double())
            assert float(torch.linalg.det(pose[:3, :3])) == pytest.approx(1.0)
        landmark = torch.tensor([[110.0, 205.0, 2.0]]).double()
        seen_then = transform_points(invert_rigid(sample.history[0].global_from_ego[0]), landmark)
        seen_now = transform_points(invert_rigid(sample.cameras.global_from_ego[0]), landmark)
        carried = transform_points(invert_rigid(now) @ then, transform_points(transform, seen_then))
        torch.testing.assert_close(carried, transform_points(transform, seen_now))

    def test_velocity_is_displacement(self, sample: Sample) -> None:
        """Where a box will be in a second turns into where the augmented box will be."""
        for transform in TRANSFORMS:
            changed = augment_sample(sample, transform)
            later = sample.boxes[:, :3].double()
            later[:, :2] += sample.boxes[:, 7:9]
            changed_later = changed.boxes[:, :2] + changed.boxes[:, 7:9]
            torch.testing.assert_close(changed_later, transform_points(transform, later)[:, :2].float())

    def test_nothing_changes_without_a_change(self, sample: Sample) -> None:
        nothing = BevAugmentConfig(rotation=0.0, scale_min=1.0, scale_max=1.0, flip_x=0.0, flip_y=0.0)
        assert_same(BevAugment(nothing)(sample), sample, tolerance=1e-6)

    @pytest.mark.parametrize("transform", TRANSFORMS)
    def test_inverse_brings_the_sample_back(self, sample: Sample, transform: torch.Tensor) -> None:
        assert_same(
            augment_sample(augment_sample(sample, transform), torch.linalg.inv(transform)), sample, tolerance=2e-5
        )

    def test_input_is_not_changed(self, sample: Sample) -> None:
        kept = augment_sample(sample, torch.eye(4, dtype=torch.float64))
        copies = {name: getattr(sample, name).clone() for name in ("points", "boxes")}
        images = sample.cameras.images.clone()
        Compose(BevAugment(BevAugmentConfig()), PhotometricAugment(PhotometricConfig(probability=1.0)))(sample)
        for name, copy in copies.items():
            assert torch.equal(getattr(sample, name), copy), name
        assert torch.equal(sample.cameras.images, images)
        assert kept.points is not sample.points

    def test_empty_sample(self, sample: Sample) -> None:
        empty = RangeFilter(BevGrid(), min_lidar_points=100)(sample)
        changed = BevAugment(BevAugmentConfig())(empty)
        assert changed.boxes.shape == (0, 9)

    def test_draws_stay_in_their_limits_and_follow_the_seed(self, sample: Sample) -> None:
        augment = BevAugment(BevAugmentConfig(rotation=0.2, scale_min=0.9, scale_max=1.1, flip_x=0.0, flip_y=0.0))
        torch.manual_seed(1)
        drawn = [augment(sample).boxes[0] for _ in range(200)]
        turns = torch.stack([box[6] for box in drawn]) - 0.4
        scales = torch.stack([box[3] for box in drawn]) / 14.5
        assert -0.2 <= float(turns.min()) < -0.15
        assert 0.15 < float(turns.max()) <= 0.2 + 1e-6
        assert 0.9 - 1e-6 <= float(scales.min()) < 0.92
        assert 1.08 < float(scales.max()) <= 1.1 + 1e-6
        torch.manual_seed(1)
        assert torch.equal(augment(sample).boxes[0], drawn[0])

    @pytest.mark.parametrize("setting", [{"rotation": -1.0}, {"scale_min": 0.0}, {"scale_min": 2.0}, {"flip_x": 1.5}])
    def test_settings_out_of_range(self, setting: dict[str, float]) -> None:
        with pytest.raises(ValueError, match=next(iter(setting))):
            BevAugmentConfig(**setting)


class TestRangeFilter:
    def test_boxes_off_the_grid_or_without_points_go(self, sample: Sample) -> None:
        grid = BevGrid(x_min=-10, x_max=10, y_min=-10, y_max=10)
        assert RangeFilter(grid, min_lidar_points=0)(sample).labels.tolist() == [8]
        assert RangeFilter(BevGrid(), min_lidar_points=1)(sample).labels.tolist() == [0]
        kept = RangeFilter(BevGrid(), min_lidar_points=0)(sample)
        assert torch.equal(kept.boxes, sample.boxes)
        assert kept.num_lidar_points.tolist() == [5, 0]

    def test_points_off_the_grid_go(self, sample: Sample) -> None:
        kept = RangeFilter(BevGrid(x_min=0, x_max=10, y_min=0, y_max=10))(sample).points
        assert 0 < len(kept) < len(sample.points)
        assert float(kept[:, :2].min()) >= 0
        assert float(kept[:, :2].max()) < 10

    def test_points_off_the_grid_stay_for_a_detector_with_another_range(self, sample: Sample) -> None:
        kept = RangeFilter(BevGrid(x_min=0, x_max=10, y_min=0, y_max=10), all_points=True)(sample)
        assert torch.equal(kept.points, sample.points)
        assert not len(kept.boxes)


class TestPhotometric:
    def test_all_changes_at_once_are_those_one_by_one(self) -> None:
        """Turn and scale of the colours about grey, then contrast about the image's mean grey, then brightness."""
        image = torch.randint(1, 255, (3, 8, 16), dtype=torch.uint8)
        image[:, :2] = 0
        to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).double()
        yiq = torch.einsum("dc,chw->dhw", to_yiq, image.double())
        mean = yiq[0, 2:].mean()
        i, q = 0.8 * yiq[1:].clone()
        yiq[1], yiq[2] = i * math.cos(0.2) - q * math.sin(0.2), i * math.sin(0.2) + q * math.cos(0.2)
        turned = torch.einsum("dc,chw->dhw", to_yiq.inverse(), yiq)
        expected = ((turned - mean) * 1.2 + mean + 0.1 * 255).clamp(0, 255)
        changed = adjust_colours(image, brightness=0.1, contrast=1.2, saturation=0.8, hue=0.2)
        assert (changed.double() - expected)[:, 2:].abs().max() <= 0.501
        assert not changed[:, :2].any()

    def test_nothing_drawn_is_nothing_done(self) -> None:
        image = torch.randint(1, 255, (3, 8, 16), dtype=torch.uint8)
        assert adjust_colours(image, brightness=0.0, contrast=1.0, saturation=1.0, hue=0.0) is image

    def test_no_change(self) -> None:
        image = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
        assert torch.equal(adjust_colours(image, brightness=0.0, contrast=1.0, saturation=1.0, hue=0.0), image)

    def test_brightness_by_hand(self) -> None:
        image = torch.tensor([10, 100, 250], dtype=torch.uint8).reshape(3, 1, 1)
        changed = adjust_colours(image, brightness=0.2, contrast=1.0, saturation=1.0, hue=0.0)
        assert changed.flatten().tolist() == [61, 151, 255]

    def test_contrast_by_hand(self) -> None:
        image = torch.tensor([50, 150], dtype=torch.uint8).repeat(3, 1)[:, None]
        changed = adjust_colours(image, brightness=0.0, contrast=1.5, saturation=1.0, hue=0.0)
        assert changed[0, 0].tolist() == [25, 175]

    def test_no_saturation_is_grey_of_the_same_luma(self) -> None:
        image = torch.tensor([200, 100, 50], dtype=torch.uint8).reshape(3, 1, 1)
        changed = adjust_colours(image, brightness=0.0, contrast=1.0, saturation=0.0, hue=0.5)
        assert changed.flatten().tolist() == [124, 124, 124]  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2

    def test_hue_turns_colours_but_no_grey(self) -> None:
        image = torch.tensor([[90, 200], [90, 100], [90, 50]], dtype=torch.uint8)[:, None]
        changed = adjust_colours(image, brightness=0.0, contrast=1.0, saturation=1.0, hue=0.3)
        assert changed[:, 0, 0].tolist() == [90, 90, 90]
        assert (changed[:, 0, 1].int() - image[:, 0, 1].int()).abs().max() > 5

    def test_black_stays_black(self) -> None:
        image = torch.full((3, 4, 4), 100, dtype=torch.uint8)
        image[:, 2:] = 0
        changed = adjust_colours(image, brightness=0.1, contrast=1.2, saturation=1.0, hue=0.0)
        assert not changed[:, 2:].any()
        assert changed[:, :2].unique().tolist() == [126]
        assert not adjust_colours(torch.zeros_like(image), brightness=0.1, contrast=0.5, saturation=1.0, hue=0.0).any()

    def test_cameras_change_each_for_itself_and_absent_ones_not(self, sample: Sample) -> None:
        sample.cameras.images[0, 1] = sample.cameras.images[0, 0]
        sample.history[0].valid[0, 1] = False
        torch.manual_seed(0)
        changed = PhotometricAugment(PhotometricConfig(probability=1.0))(sample)
        assert not torch.equal(changed.cameras.images[0, 0], changed.cameras.images[0, 1])
        assert torch.equal(changed.history[0].images[0, 1], sample.history[0].images[0, 1])
        assert not torch.equal(changed.history[0].images[0, 0], sample.history[0].images[0, 0])
        assert changed.cameras.images.dtype == torch.uint8

    def test_never_drawn(self, sample: Sample) -> None:
        assert_same(PhotometricAugment(PhotometricConfig(probability=0.0))(sample), sample)

    def test_settings_out_of_range(self) -> None:
        with pytest.raises(ValueError, match="contrast"):
            PhotometricConfig(contrast=1.5)


class TestGridMask:
    def test_squares_by_hand(self) -> None:
        assert grid_of_squares(4, 6, period=4, side=2, start=(1, 3)).tolist() == [
            [1, 1, 1, 1, 1, 1],
            [0, 1, 1, 0, 0, 1],
            [0, 1, 1, 0, 0, 1],
            [1, 1, 1, 1, 1, 1],
        ]

    def test_hides_squares_of_each_image_and_changes_nothing_else(self, sample: Sample) -> None:
        torch.manual_seed(0)
        before = sample.cameras.images.clone()
        changed = GridMask(GridMaskConfig(probability=1.0))(sample)
        kept = (changed.cameras.images == sample.cameras.images) | (changed.cameras.images == 0)
        assert kept.all()
        assert not torch.equal(changed.cameras.images, sample.cameras.images)
        assert not torch.equal(changed.history[0].images[0, 0], sample.history[0].images[0, 0])
        assert torch.equal(sample.cameras.images, before)

    def test_squares_have_the_mean_colour_and_padding_keeps_its_own(self, sample: Sample) -> None:
        """Black squares are far from what the network takes as nothing."""
        mean = (124, 116, 104)
        masked = GridMask(GridMaskConfig(probability=1.0), mean)(sample).cameras.images
        hidden = (masked != sample.cameras.images).any(dim=2, keepdim=True).expand_as(masked)
        assert hidden.any()
        assert (masked.movedim(2, -1)[hidden.movedim(2, -1)].reshape(-1, 3) == torch.tensor(mean)).all()
        image = torch.full((3, 4, 6), 60, dtype=torch.uint8)
        image[:, 2:] = torch.tensor(mean, dtype=torch.uint8)[:, None, None]
        changed = adjust_colours(image, brightness=0.2, contrast=1.0, saturation=1.0, hue=0.0, padding=mean)
        assert torch.equal(changed[:, 2:], image[:, 2:])
        assert (changed[:, :2] == 111).all()

    def test_never_drawn(self, sample: Sample) -> None:
        assert_same(GridMask(GridMaskConfig(probability=0.0))(sample), sample)

    def test_settings_out_of_range(self) -> None:
        with pytest.raises(ValueError, match="ratio must be in"):
            GridMaskConfig(ratio=1.5)

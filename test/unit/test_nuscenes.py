import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bevdistill_ros.core.geometry import project_points, transform_points
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.fit import ImageTarget
from training.data.dataset import NuScenesDataset
from training.data.index import load
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.points import read_points
from training.data.sample import collate
from training.data.sampler import class_balanced_indices

CAMERAS = ("CAM_FRONT", "CAM_BACK")


def index_of(tiny: Any, **settings: Any) -> NuScenesIndex:
    return load_index(DataConfig(root=tiny.root, version=tiny.version, **settings))


def dataset_of(tiny: Any, split: str = "tiny_train", **settings: Any) -> NuScenesDataset:
    return NuScenesDataset(
        index_of(tiny), split, **{"cameras": CAMERAS, "target": ImageTarget(height=36, width=64), **settings}
    )


class TestIndex:
    def test_samples_know_scene_time_and_predecessor(self, tiny: Any) -> None:
        index = index_of(tiny)
        assert [index.token(sample) for sample in range(len(index))][:3] == [f"scene-drive-{n}" for n in range(3)]
        assert index.stamps_ns.tolist() == [0, 500_000_000, 1_000_000_000, 10_000_000_000, 20_000_000_000]
        assert index.previous.tolist() == [-1, 0, 1, -1, -1]
        assert index.scenes.tolist() == [0, 0, 0, 1, 2]

    def test_ego_is_the_pose_of_the_lidar(self, tiny: Any) -> None:
        np.testing.assert_allclose(index_of(tiny).global_from_ego[1], tiny.global_from_ego_at(0.5), atol=1e-12)

    def test_cameras_are_in_our_order_and_see_the_world_at_their_own_stamp(self, tiny: Any) -> None:
        index = index_of(tiny)
        assert index.cameras == CAMERAS
        assert index.camera_stamps_ns[1].tolist() == [460_000_000, 530_000_000]
        for column, (name, time) in enumerate(zip(CAMERAS, (0.46, 0.53), strict=True)):
            ego_from_global = np.linalg.inv(tiny.global_from_ego_at(0.5))
            expected = ego_from_global @ tiny.global_from_ego_at(time) @ tiny.ego_from(name)
            np.testing.assert_allclose(index.ego_from_camera[1, column], expected, atol=1e-9)
            assert index.camera_sizes[1, column].tolist() == [36, 64]

    def test_motion_between_camera_and_lidar_moves_the_projection(self, tiny: Any) -> None:
        """Worked out along the other path: global point -> ego at the camera's stamp -> camera -> pixel."""
        dataset = dataset_of(tiny)
        sample = dataset[1]
        landmark = np.append(tiny.landmarks[3], 1.0)
        camera = np.linalg.inv(tiny.global_from_ego_at(0.46) @ tiny.ego_from("CAM_FRONT")) @ landmark
        expected = [50.0 * camera[0] / camera[2] + 31.5, 50.0 * camera[1] / camera[2] + 17.5]
        ego = (np.linalg.inv(tiny.global_from_ego_at(0.5)) @ landmark)[:3]
        pixels, depth = project_points(
            sample.cameras.image_from_ego[0, 0], torch.tensor(ego[None], dtype=torch.float32)
        )
        np.testing.assert_allclose(pixels[0], expected, atol=1e-3)
        assert float(depth[0]) == pytest.approx(camera[2], abs=1e-4)

    def test_camera_that_is_absent_is_known_as_such(self, tiny: Any) -> None:
        index = index_of(tiny)
        assert [bool(file) for file in index.camera_files[2]] == [True, False]

    def test_sweeps_go_back_from_the_key_frame_to_the_start_of_the_scene(self, tiny: Any) -> None:
        index = index_of(tiny, num_sweeps=3)
        np.testing.assert_allclose(index.sweep_lags[index.sweeps_of(0)], [0.0])
        np.testing.assert_allclose(index.sweep_lags[index.sweeps_of(1)], [0.0, 0.1, 0.2, 0.3])
        assert index.sweep_files[index.sweeps_of(1)][0] == b"samples/LIDAR_TOP/LIDAR_TOP-0.50.bin"
        assert len(index.sweep_lags[index_of(tiny, num_sweeps=9).sweeps_of(1)]) <= 6

    def test_boxes_are_in_the_ego_frame(self, tiny: Any) -> None:
        index = index_of(tiny)
        car = index.boxes[index.boxes_of(1)][0]
        # At 0.5 s the ego is at (105, 50.25), turned by 0.1 rad; the car at (112.5, 50) heads along global x, 5 m/s.
        cosine, sine = np.cos(0.1), np.sin(0.1)
        expected = [
            cosine * 7.5 - sine * 0.25,
            -sine * 7.5 - cosine * 0.25,
            0.5,
            4.5,
            1.9,
            1.6,
            -0.1,
            5 * cosine,
            -5 * sine,
        ]
        np.testing.assert_allclose(car, expected, atol=1e-5)

    def test_only_detection_classes_are_kept_in_our_order(self, tiny: Any) -> None:
        index = index_of(tiny)
        names = [[CLASS_NAMES[label] for label in index.labels[index.boxes_of(sample)]] for sample in range(5)]
        assert names == [["car", "barrier"]] * 3 + [["pedestrian"], []]
        assert index.num_lidar_points[index.boxes_of(3)].tolist() == [0]

    def test_unknown_velocity_is_zero_and_marked(self, tiny: Any) -> None:
        index = index_of(tiny)
        pedestrian = index.boxes_of(3)
        assert index.velocity_known[pedestrian].tolist() == [False]
        assert index.boxes[pedestrian, 7:].tolist() == [[0.0, 0.0]]
        assert index.velocity_known[index.boxes_of(1)].all()
        assert np.isfinite(index.boxes).all()

    def test_samples_of_a_split_are_ordered_by_scene_and_time(self, tiny: Any) -> None:
        index = index_of(tiny)
        assert index.samples_of("tiny_train").tolist() == [0, 1, 2]
        assert index.samples_of("tiny_val").tolist() == [0, 1, 2, 3]
        assert list(index.poses_of("tiny_empty")) == ["scene-empty-0"]


class TestUserMistakes:
    def test_unknown_split_lists_those_found(self, tiny: Any) -> None:
        with pytest.raises(ValueError, match=r"no split 'val'; splits found: tiny_train, tiny_val, tiny_empty"):
            index_of(tiny).samples_of("val")

    def test_missing_root(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"there is no data set at .*nowhere"):
            load_index(DataConfig(root=tmp_path / "nowhere"))

    def test_unknown_version_lists_those_found(self, tiny: Any) -> None:
        with pytest.raises(ValueError, match=r"no version 'v1.0-mini'; versions found there: v1.0-tiny"):
            load_index(DataConfig(root=tiny.root, version="v1.0-mini"))

    def test_official_name_of_an_own_split_is_refused(self, tiny: Any) -> None:
        (tiny.root / tiny.version / "splits.json").write_text(json.dumps({"val": ["scene-drive"]}))
        with pytest.raises(ValueError, match="name of an official nuScenes split; rename it"):
            index_of(tiny)

    def test_damaged_table(self, tiny: Any) -> None:
        (tiny.root / tiny.version / "sample_data.json").write_text('[{"token": ')
        with pytest.raises(ValueError, match=r"cannot read the tables in .*v1.0-tiny"):
            index_of(tiny)

    def test_damaged_splits(self, tiny: Any) -> None:
        (tiny.root / tiny.version / "splits.json").write_text("{")
        with pytest.raises(ValueError, match=r"splits.json is not valid JSON"):
            index_of(tiny)

    @pytest.mark.parametrize("setting", [{"num_sweeps": -1}, {"clip_length": 0}])
    def test_settings_out_of_range(self, setting: dict[str, int]) -> None:
        with pytest.raises(ValueError, match=next(iter(setting))):
            DataConfig(**setting)

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            ({"cameras": ("CAM_FRONT", "CAM_LEFT")}, "no camera CAM_LEFT; it has CAM_FRONT, CAM_BACK"),
            ({"num_sweeps": 10}, r"num_sweeps must be in 0\.\.\.9"),
            ({"clip_length": 0}, "clip_length must be at least 1"),
        ],
    )
    def test_data_set_refuses(self, tiny: Any, setting: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            dataset_of(tiny, **setting)

    def test_missing_image_names_the_file(self, tiny: Any) -> None:
        path = tiny.root / "samples/CAM_FRONT/CAM_FRONT-0.46.jpg"
        path.unlink()
        with pytest.raises(FileNotFoundError, match=r"CAM_FRONT-0.46.jpg is missing; unpack"):
            dataset_of(tiny)[1]

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.97])
    def test_cut_image_is_never_filled_with_grey(self, tiny: Any, kept: float) -> None:
        path = tiny.root / "samples/CAM_FRONT/CAM_FRONT-0.46.jpg"
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ValueError, match=r"CAM_FRONT-0.46.jpg is cut off or damaged"):
            dataset_of(tiny)[1]

    def test_image_of_another_aspect(self, tiny: Any) -> None:
        path = tiny.root / "samples/CAM_FRONT/CAM_FRONT-0.46.jpg"
        path.write_bytes((tiny.root / "maps/none.png").read_bytes())
        with pytest.raises(ValueError, match="decodes to 4x4, another aspect than the 64x36"):
            dataset_of(tiny)[1]


class TestCache:
    def test_second_start_reads_no_tables(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        first = index_of(tiny)
        monkeypatch.setattr(load, "build_arrays", None)
        assert_same(index_of(tiny), first)

    @pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
    def test_damaged_cache_is_built_again(self, tiny: Any, damage: str) -> None:
        first = index_of(tiny)
        (path,) = (tiny.root / ".bevdistill_cache").iterdir()
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes({"cut": content[: len(content) // 2], "flip": content, "empty": b""}[damage])
        assert_same(index_of(tiny), first)
        assert len(list(path.parent.iterdir())) == 1

    def test_changed_tables_are_read_again(self, tiny: Any) -> None:
        index_of(tiny)
        path = tiny.root / tiny.version / "sample_annotation.json"
        path.write_text(json.dumps([]))
        assert len(index_of(tiny).labels) == 0

    def test_number_of_sweeps_is_part_of_the_key(self, tiny: Any) -> None:
        assert len(index_of(tiny, num_sweeps=0).sweep_files) == 5
        assert len(index_of(tiny, num_sweeps=9).sweep_files) == 1 + 6 + 10 + 1 + 1

    def test_read_only_data_stays_untouched(self, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        os.chmod(tiny.root, 0o555)
        try:
            index_of(tiny)
        finally:
            os.chmod(tiny.root, 0o755)
        assert not (tiny.root / ".bevdistill_cache").exists()
        assert len(list((tmp_path / "cache").rglob("*.npz"))) == 1

    def test_folder_that_cannot_be_made_costs_no_run(
        self, tiny: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        assert len(index_of(tiny, cache_dir=tmp_path / "file" / "below")) == 5
        assert "The index is not cached (cannot write" in caplog.text


class TestDataset:
    def test_sample(self, tiny: Any) -> None:
        sample = dataset_of(tiny)[1]
        assert (sample.token, sample.stamp_ns) == ("scene-drive-1", 500_000_000)
        assert tuple(sample.cameras.images.shape) == (1, 2, 3, 36, 64)
        assert sample.cameras.images.dtype == torch.uint8
        assert sample.cameras.image_from_ego.dtype == torch.float32
        assert sample.cameras.global_from_ego.dtype == torch.float64
        assert sample.cameras.valid.tolist() == [[True, True]]
        assert sample.points.shape == (6 * 4, 5)
        assert (sample.boxes.dtype, sample.labels.dtype) == (torch.float32, torch.int64)
        assert sample.num_lidar_points.tolist() == [7, 7]

    def test_unknown_velocity_is_not_taught_as_standing_still(self, tiny: Any) -> None:
        dataset = dataset_of(tiny, "tiny_val")
        velocities = {sample.token: sample.boxes[:, 7:] for sample in (dataset[index] for index in range(4))}
        assert velocities["scene-stand-0"].isnan().all()
        assert velocities["scene-drive-1"].isfinite().all()

    def test_colours_are_red_green_blue(self, tiny: Any) -> None:
        images = dataset_of(tiny)[0].cameras.images[0].float().mean(dim=(2, 3))
        for image, name in zip(images, CAMERAS, strict=True):
            np.testing.assert_allclose(image, tiny.colours[name], atol=3)

    def test_cameras_come_in_the_order_asked_for(self, tiny: Any) -> None:
        straight, turned = dataset_of(tiny)[1].cameras, dataset_of(tiny, cameras=CAMERAS[::-1])[1].cameras
        assert torch.equal(straight.images.flip(1), turned.images)
        assert torch.equal(straight.image_from_ego.flip(1), turned.image_from_ego)

    def test_smaller_images_keep_directions(self, tiny: Any) -> None:
        """Halving the image maps pixel u to (u + 0.5) / 2 - 0.5."""
        full, half = dataset_of(tiny)[1].cameras, dataset_of(tiny, target=ImageTarget(height=18, width=32))[1].cameras
        assert tuple(half.images.shape) == (1, 2, 3, 18, 32)
        point = torch.tensor([[20.0, 3.0, 1.0]])
        pixel, _ = project_points(full.image_from_ego[0, 0], point)
        halved, _ = project_points(half.image_from_ego[0, 0], point)
        torch.testing.assert_close(halved, (pixel + 0.5) / 2 - 0.5, atol=1e-4, rtol=0)

    def test_absent_camera_is_black_and_invalid(self, tiny: Any) -> None:
        cameras = dataset_of(tiny)[2].cameras
        assert cameras.valid.tolist() == [[True, False]]
        assert not cameras.images[0, 1].any()
        assert torch.isfinite(cameras.image_from_ego).all()

    def test_clip_goes_back_in_time_and_stops_at_the_start(self, tiny: Any) -> None:
        dataset = dataset_of(tiny, "tiny_val", clip_length=3)
        assert [len(dataset[position].history) for position in range(4)] == [0, 1, 2, 0]
        clip = dataset[2]
        for frame, time in zip(clip.history, (0.0, 0.5), strict=True):
            np.testing.assert_allclose(frame.global_from_ego[0], tiny.global_from_ego_at(time), atol=1e-12)
        assert torch.equal(clip.history[1].images, dataset[1].cameras.images)
        batch = collate([dataset[0], clip])
        assert batch.history_present.tolist() == [[False, True], [False, True]]

    def test_a_frame_of_the_clip_is_dropped_at_random(self, tiny: Any) -> None:
        """Frame 2 with one of the two before it; a clip at the start of its scene keeps what there is."""
        dataset = dataset_of(tiny, clip_length=2, drop_frame=True, with_images=False)
        poses = [torch.from_numpy(dataset.index.global_from_ego[number]) for number in range(3)]
        seen = set()
        for seed in range(20):
            torch.manual_seed(seed)
            (frame,) = dataset[2].history
            seen |= {number for number in (0, 1) if torch.equal(frame.global_from_ego[0], poses[number])}
        assert seen == {0, 1}
        assert torch.equal(dataset[1].history[0].global_from_ego[0], poses[0])
        assert dataset[0].history == ()

    def test_mounting_of_the_lidar_takes_its_file_to_the_points(self, tiny: Any) -> None:
        dataset = dataset_of(tiny, num_sweeps=0)
        sample = dataset[1]
        np.testing.assert_allclose(sample.ego_from_lidar, tiny.ego_from("LIDAR_TOP"), atol=1e-9)
        first = dataset.index.sweeps_of(int(dataset.samples[1])).start
        raw = read_points(tiny.root / dataset.index.sweep_files[first].decode())[:4, :3]
        points = transform_points(sample.ego_from_lidar, torch.tensor(raw).double())
        torch.testing.assert_close(points.float(), sample.points[:, :3], atol=1e-4, rtol=0)
        assert torch.equal(collate([dataset[0], sample]).ego_from_lidar[1], sample.ego_from_lidar)

    def test_number_of_sweeps(self, tiny: Any) -> None:
        sample = dataset_of(tiny, num_sweeps=2)[2]
        assert sample.points[:, 4].unique().numpy() == pytest.approx([0.0, 0.1, 0.2])

    def test_points_of_all_sweeps_meet_where_the_landmarks_are(self, tiny: Any) -> None:
        sample = dataset_of(tiny)[2]
        assert len(sample.points) == 10 * 4
        globally = transform_points(sample.cameras.global_from_ego[0], sample.points[:, :3].double())
        distance = torch.cdist(globally, torch.tensor(tiny.landmarks)).min(dim=1).values
        assert float(distance.max()) < 1e-4

    def test_without_images_or_points(self, tiny: Any) -> None:
        (tiny.root / "samples/CAM_FRONT/CAM_FRONT-0.46.jpg").unlink()
        blind = dataset_of(tiny, with_images=False)[1]
        assert blind.cameras.images.numel() == 0
        assert not blind.cameras.valid.any()
        (tiny.root / "samples/LIDAR_TOP/LIDAR_TOP-0.00.bin").unlink()
        assert dataset_of(tiny, with_points=False)[0].points.shape == (0, 5)

    def test_sample_without_boxes(self, tiny: Any) -> None:
        sample = dataset_of(tiny, "tiny_empty")[0]
        assert sample.boxes.shape == (0, 9)
        assert sample.labels.shape == (0,)

    def test_augmentation_comes_last(self, tiny: Any) -> None:
        dataset = dataset_of(tiny, augment=lambda sample: replace(sample, token=sample.token + "-changed"))
        assert dataset[0].token == "scene-drive-0-changed"

    def test_samples_do_not_share_memory_with_the_index(self, tiny: Any) -> None:
        dataset = dataset_of(tiny)
        dataset[0].boxes.fill_(7)
        dataset[0].cameras.global_from_ego.fill_(7)
        assert not (dataset.index.boxes == 7).all(axis=1).any()
        np.testing.assert_allclose(dataset.index.global_from_ego[0], tiny.global_from_ego_at(0.0))


class TestClassBalance:
    def test_every_class_gets_the_same_share(self, tiny: Any) -> None:
        """Samples 0...2 hold car and barrier, 3 a pedestrian: 3 + 3 + 1 = 7 counts, so each class gets 2 draws."""
        drawn = class_balanced_indices(index_of(tiny), "tiny_val")
        assert len(drawn) == 6
        assert drawn[4:] == [3, 3]
        assert set(drawn[:4]) <= {0, 1, 2}

    def test_seed(self, tiny: Any) -> None:
        index = index_of(tiny)
        drawn = {tuple(class_balanced_indices(index, "tiny_val", seed=seed)) for seed in range(20)}
        assert len(drawn) > 1
        assert class_balanced_indices(index, "tiny_val", seed=3) == class_balanced_indices(index, "tiny_val", seed=3)

    def test_nothing_to_balance(self, tiny: Any) -> None:
        with pytest.raises(ValueError, match="no box of a detection class"):
            class_balanced_indices(index_of(tiny), "tiny_empty")


def assert_same(first: NuScenesIndex, second: NuScenesIndex) -> None:
    for field in fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name

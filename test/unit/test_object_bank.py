"""Objects of a split and pasting them into other samples."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import points_in_boxes
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.fit import ImageTarget
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.object_bank import ObjectBank, PasteConfig, PasteObjects, bank_folder, without_overlap
from training.data.sample import Sample
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import fit

CAR, PEDESTRIAN = CLASS_NAMES.index("car"), CLASS_NAMES.index("pedestrian")


def box_at(x: float, y: float, length: float = 4.0, width: float = 2.0, yaw: float = 0.0) -> list[float]:
    return [x, y, 1.0, length, width, 2.0, yaw, 1.0, 0.0]


def cloud_in(box: list[float], count: int) -> Tensor:
    """Points (P, 5) inside a box that is not turned."""
    points = torch.rand(count, 5, generator=torch.Generator().manual_seed(count)) - 0.5
    points[:, :3] = points[:, :3] * torch.tensor(box[3:6]) * 0.9 + torch.tensor(box[:3])
    return points


@pytest.fixture
def data(tiny: Any) -> DataConfig:
    return DataConfig(root=tiny.root, version=tiny.version, train_split="tiny_val", num_sweeps=0)


@pytest.fixture
def dataset(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> NuScenesDataset:
    """Samples 0...3; the car of each holds 6 + number points, the barriers 2, the pedestrian 9."""
    dataset = NuScenesDataset(
        load_index(data),
        "tiny_val",
        cameras=["CAM_FRONT"],
        target=ImageTarget(height=36, width=64),
        num_sweeps=0,
        with_images=False,
    )
    original = NuScenesDataset.__getitem__

    def with_points(self: NuScenesDataset, position: int) -> Sample:
        sample = original(self, position)
        counts = {CAR: 6 + position, PEDESTRIAN: 9}
        clouds = [torch.full((3, 5), 900.0)]
        for box, label in zip(sample.boxes, sample.labels.tolist(), strict=True):
            offset = torch.zeros(counts.get(label, 2), 5)
            offset[:, 0] = torch.linspace(-0.1, 0.1, len(offset))
            offset[:, 3], offset[:, 4] = 0.5, 0.1
            offset[:, :3] += box[:3]
            clouds.append(offset)
        return replace(sample, points=torch.cat(clouds))

    monkeypatch.setattr(NuScenesDataset, "__getitem__", with_points)
    return dataset


@pytest.fixture
def sample(dataset: NuScenesDataset) -> Sample:
    """A car at (10, 0) with 20 points, and 7 points of a wall at (30, 10)."""
    own = box_at(10.0, 0.0)
    wall = cloud_in(box_at(30.0, 10.0, 1.0, 1.0), 7)
    return replace(
        dataset[0],
        points=torch.cat([cloud_in(own, 20), wall]),
        boxes=torch.tensor([own]),
        labels=torch.tensor([CAR]),
        num_lidar_points=torch.tensor([20]),
    )


def bank_of(*objects: tuple[list[float], int]) -> ObjectBank:
    """Objects with 10 points each."""
    clouds = [cloud_in(box, 10) - torch.tensor([*box[:3], 0.0, 0.0]) for box, _ in objects]
    return ObjectBank(
        points=torch.cat(clouds).numpy(),
        offsets=np.arange(len(objects) + 1) * 10,
        boxes=np.array([box for box, _ in objects], dtype=np.float32),
        labels=np.array([label for _, label in objects]),
    )


class TestBank:
    def test_objects_with_enough_points_are_kept_about_their_centres(
        self, dataset: NuScenesDataset, tmp_path: Path
    ) -> None:
        bank = ObjectBank.load(tmp_path / "bank", dataset)
        assert sorted(bank.labels.tolist()) == [CAR, CAR, CAR, PEDESTRIAN]  # barriers hold two points
        assert np.diff(bank.offsets).tolist() == [6, 7, 8, 9]
        assert float(np.abs(bank.points[:, :3]).max()) == pytest.approx(0.1, abs=1e-4)
        assert bank.points[:, 3:].tolist() == pytest.approx(np.tile([0.5, 0.1], (30, 1)))
        for number, position in enumerate((0, 1, 2, 3)):
            points = bank.points_of(number)
            whole = dataset[position]
            inside = points_in_boxes(whole.points[:, :3], torch.tensor(bank.boxes[number : number + 1]))[0]
            torch.testing.assert_close(points, whole.points[inside], atol=1e-5, rtol=0)

    def test_it_is_made_once(self, dataset: NuScenesDataset, data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        first = ObjectBank.load(bank_folder(data), dataset)
        monkeypatch.setattr(NuScenesDataset, "__getitem__", None)
        again = ObjectBank.load(bank_folder(data), dataset)
        assert isinstance(again.points, np.memmap)
        np.testing.assert_array_equal(again.points, first.points)
        np.testing.assert_array_equal(again.boxes, first.boxes)
        assert [path.name for path in bank_folder(data).parent.iterdir() if path.name.startswith(".")] == []

    def test_changed_tables_or_another_split_make_another(self, data: DataConfig) -> None:
        assert bank_folder(data) != bank_folder(replace(data, train_split="tiny_train"))
        assert bank_folder(data) != bank_folder(replace(data, num_sweeps=2))

    def test_a_split_without_objects(self, dataset: NuScenesDataset, tmp_path: Path, sample: Sample) -> None:
        bank = ObjectBank.load(
            tmp_path / "bank",
            NuScenesDataset(
                dataset.index,
                "tiny_empty",
                target=ImageTarget(height=36, width=64),
                cameras=["CAM_FRONT"],
                num_sweeps=0,
                with_images=False,
            ),
        )
        assert len(bank) == 0
        assert PasteObjects(bank, PasteConfig().objects)(sample) is sample

    def test_a_damaged_bank_is_one_clear_line(self, dataset: NuScenesDataset, tmp_path: Path) -> None:
        ObjectBank.load(tmp_path / "bank", dataset)
        with (tmp_path / "bank" / "points.bin").open("ab") as file:
            file.write(b"1234")
        with pytest.raises(ValueError, match=r"damaged \(points.bin is cut off\); remove the folder"):
            ObjectBank.load(tmp_path / "bank", dataset)

    def test_an_interruption_leaves_nothing(self, dataset: NuScenesDataset, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        broken = copy.copy(dataset)
        broken.samples = np.array([*dataset.samples[:2], len(dataset.index)])
        with pytest.raises(IndexError):
            ObjectBank.load(tmp_path / "folder" / "bank", broken)
        assert list((tmp_path / "folder").iterdir()) == []


class TestPaste:
    def test_an_object_stands_where_it_was_seen(self, sample: Sample) -> None:
        bank = bank_of((box_at(30.0, 10.0), CAR))
        pasted = PasteObjects(bank, {"car": 2})(sample)
        assert pasted.boxes.tolist() == [box_at(10.0, 0.0), box_at(30.0, 10.0)]
        assert pasted.labels.tolist() == [CAR, CAR]
        assert pasted.num_lidar_points.tolist() == [20, 10]
        # The wall's points lay where the object now is.
        assert len(pasted.points) == 20 + 10
        assert points_in_boxes(pasted.points[:, :3], pasted.boxes).sum(1).tolist() == [20, 10]
        torch.testing.assert_close(pasted.points[20:], bank.points_of(0))

    def test_nothing_is_put_where_something_is(self, sample: Sample) -> None:
        pasted = PasteObjects(bank_of((box_at(12.0, 1.5), CAR)), {"car": 5})(sample)
        assert pasted is sample

    def test_of_two_that_touch_one_is_pasted(self, sample: Sample) -> None:
        bank = bank_of((box_at(30.0, 10.0), PEDESTRIAN), (box_at(31.0, 10.5), PEDESTRIAN))
        for seed in range(10):
            torch.manual_seed(seed)
            assert len(PasteObjects(bank, {"pedestrian": 2})(sample).boxes) == 2

    def test_a_class_is_filled_up_to_its_number(self, sample: Sample) -> None:
        bank = bank_of(*((box_at(-40.0 + 6 * number, 20.0), CAR) for number in range(12)))
        counts = set()
        for seed in range(20):
            torch.manual_seed(seed)
            counts.add(int((PasteObjects(bank, {"car": 4})(sample).labels == CAR).sum()))
        assert max(counts) == 4  # one of its own and three more; fewer where a draw repeats
        assert PasteObjects(bank, {"car": 1})(sample) is sample

    def test_classes_that_are_not_asked_for_stay_out(self, sample: Sample) -> None:
        bank = bank_of((box_at(30.0, 10.0), PEDESTRIAN))
        assert PasteObjects(bank, {"car": 3})(sample) is sample

    def test_neither_sample_nor_bank_is_changed(self, sample: Sample) -> None:
        bank = bank_of((box_at(30.0, 10.0), CAR))
        before = sample.points.clone(), sample.boxes.clone(), bank.points.copy()
        PasteObjects(bank, {"car": 2})(sample)
        assert torch.equal(sample.points, before[0])
        assert torch.equal(sample.boxes, before[1])
        np.testing.assert_array_equal(bank.points, before[2])

    def test_draws_follow_the_seed(self, sample: Sample) -> None:
        bank = bank_of(*((box_at(-40.0 + 6 * number, 20.0), CAR) for number in range(12)))

        def drawn(seed: int) -> list[float]:
            torch.manual_seed(seed)
            return PasteObjects(bank, {"car": 3})(sample).boxes[:, 0].tolist()

        assert drawn(1) == drawn(1)
        assert len({tuple(drawn(seed)) for seed in range(10)}) > 3


def test_overlap_is_seen_from_above_and_turned_boxes_are_exact() -> None:
    present = torch.tensor([box_at(0.0, 0.0, 10.0, 1.0, yaw=0.785)])
    # Beside the diagonal, inside its upright bounding box; then across it; then across the second.
    candidates = torch.tensor([box_at(3.0, -3.0, 2.0, 2.0), box_at(2.0, 2.0), box_at(3.5, -3.0)])
    assert without_overlap(candidates, present).tolist() == [True, False, False]
    assert without_overlap(candidates[:0], present).tolist() == []
    assert without_overlap(candidates, present[:0]).tolist() == [True, True, False]


class TestTraining:
    def test_a_teacher_trains_on_pasted_objects(self, make_run: Callable[..., TrainConfig], tmp_path: Path) -> None:
        config = make_run(
            tmp_path / "run",
            role="teacher",
            **{"augment.paste": {}, "augment.bev": {}, "data.cache_dir": str(tmp_path / "cache")},
        )
        assert fit(config).exists()
        assert [path.name.split("-")[0] for path in sorted((tmp_path / "cache").iterdir())] == ["index", "objects"]
        steps = train_dataset(config).augment.steps  # type: ignore[union-attr]
        assert isinstance(steps[0], PasteObjects)  # before the world is turned

    def test_a_student_is_refused(self, make_run: Callable[..., TrainConfig], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no camera sees pasted objects"):
            make_run(tmp_path, **{"augment.paste": {}})

    @pytest.mark.parametrize(
        ("objects", "message"), [({"cat": 1}, "has no class 'cat'"), ({"car": -1}, "car must be at least 0")]
    )
    def test_settings_out_of_range(self, objects: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            PasteConfig(objects=objects)

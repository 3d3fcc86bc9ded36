from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.core.records import Detections
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import BevMemory
from training.data.index.load import DataConfig
from training.data.sample import Batch, collate
from training.evaluate.detector import StudentDetector, load_detector
from training.evaluate.metrics import Metrics
from training.evaluate.run import EvaluateConfig, detect_split, evaluate
from training.run.config import TrainConfig

CPU = torch.device("cpu")


@pytest.fixture
def data(tiny_world: Any) -> DataConfig:
    return DataConfig(
        root=tiny_world.root,
        version=tiny_world.version,
        train_split="tiny_train",
        val_split="tiny_val",
        num_sweeps=1,
    )


@pytest.fixture
def temporal(make_run: Callable[..., TrainConfig], tmp_path: Path) -> BevFormer:
    """A temporal student with random weights."""
    config = make_run(tmp_path, **{"student.temporal": True, "data.clip_length": 2}).student
    torch.manual_seed(0)
    model = BevFormer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def same(first: Detections, second: Detections) -> bool:
    return torch.equal(first.boxes, second.boxes) and torch.equal(first.scores, second.scores)


def test_bundle_and_checkpoint_score_the_same(
    tiny_student: Path, tiny_bundle: Path, data: DataConfig, tmp_path: Path
) -> None:
    scores = [
        evaluate(
            EvaluateConfig(source=str(source), data=data, output=str(tmp_path / name), num_workers=0, progress=False)
        )
        for name, source in (("checkpoint", tiny_student), ("bundle", tiny_bundle))
    ]
    assert scores[0] == scores[1]
    assert scores[0].num_samples == 4
    assert Metrics.from_json((tmp_path / "bundle" / "metrics.json").read_text()) == scores[0]
    results = [(tmp_path / name / "results.json").read_text() for name in ("checkpoint", "bundle")]
    assert results[0] == results[1]
    assert '"use_camera": true, "use_lidar": false' in results[0]


def test_teacher_is_scored_as_a_lidar_method(tiny_teacher: Path, data: DataConfig, tmp_path: Path) -> None:
    config = EvaluateConfig(
        source=str(tiny_teacher),
        data=data,
        split="tiny_train",
        output=str(tmp_path / "out"),
        num_workers=0,
        progress=False,
    )
    assert evaluate(config).split == "tiny_train"
    assert '"use_camera": false, "use_lidar": true' in (tmp_path / "out" / "results.json").read_text()


def test_teacher_sees_the_sweeps_that_it_was_trained_with(tiny_teacher: Path, data: DataConfig) -> None:
    detector = load_detector(str(tiny_teacher), "cpu")
    other = DataConfig(root=data.root, version=data.version, num_sweeps=0)
    dataset = detector.dataset(other, "tiny_val")
    assert dataset.num_sweeps == 1
    assert dataset[2].points[:, 4].max() > 0.05  # a sweep before the key frame
    assert dataset[2].cameras.images.numel() == 0


@pytest.mark.parametrize("source", ["tiny_teacher", "tiny_student"])
def test_frames_for_pictures_have_images_and_points(
    request: pytest.FixtureRequest, data: DataConfig, source: str
) -> None:
    dataset = load_detector(str(request.getfixturevalue(source)), "cpu").dataset(data, "tiny_val", for_pictures=True)
    sample = dataset[1]
    assert sample.cameras.images.float().mean() > 5
    assert len(sample.points)
    assert dataset.cameras == ("CAM_FRONT", "CAM_BACK")


def test_batch_size_changes_nothing(tiny_student: Path, data: DataConfig) -> None:
    detector = load_detector(str(tiny_student), "cpu")
    dataset = detector.dataset(data, "tiny_val")
    found = [detect_split(detector, dataset, batch_size=size, num_workers=0, progress=False) for size in (1, 3)]
    assert list(found[0]) == list(found[1]) == [dataset.index.token(sample) for sample in dataset.samples]
    for token, detections in found[0].items():
        assert torch.allclose(detections.scores, found[1][token].scores, atol=1e-6)
        assert torch.allclose(detections.boxes, found[1][token].boxes, atol=1e-4)


def test_temporal_student_remembers_inside_a_scene_only(temporal: BevFormer, data: DataConfig) -> None:
    """Against a loop that goes scene by scene."""
    detector = StudentDetector(temporal, CPU)
    dataset = detector.dataset(data, "tiny_val")
    found = detect_split(detector, dataset, batch_size=4, num_workers=0, progress=False)
    previous: BevMemory | None = None
    scenes: list[int] = []
    for position, number in enumerate(dataset.samples):
        if dataset.index.scenes[number] not in scenes:
            previous = None
            scenes.append(int(dataset.index.scenes[number]))
        batch = collate([dataset[position]])
        with torch.no_grad():
            output = temporal(batch.cameras, previous)
        expected = detections_from(output.predictions, batch.stamps_ns, grid=temporal.config.grid)[0]
        assert same(found[batch.tokens[0]], expected)
        alone = detector.detect(batch)[0]
        assert same(alone, expected) == (previous is None)
        previous = BevMemory(
            bev=output.bev, global_from_ego=batch.cameras.global_from_ego, present=torch.ones(1, dtype=torch.bool)
        )
    assert len(scenes) == 2


def test_frame_that_was_left_out_ends_the_memory(temporal: BevFormer, data: DataConfig) -> None:
    detector = StudentDetector(temporal, CPU)
    calls: list[bool] = []
    original = detector.detect

    def spy(batch: Batch, *, continues: bool = False) -> list[Detections]:
        calls.append(continues)
        return original(batch, continues=continues)

    detector.detect = spy  # type: ignore[method-assign]
    dataset = detector.dataset(data, "tiny_train")
    dataset.samples = dataset.samples[[0, 1, 2, 0, 2]]
    detect_split(detector, dataset, batch_size=1, num_workers=0, progress=False)
    assert calls == [False, True, True, False, False]


def test_what_is_no_model_is_refused(tmp_path: Path, tiny_student: Path) -> None:
    for source, message in (
        ("", "source is empty"),
        (str(tmp_path / "none"), "no checkpoint at"),
        (str(tmp_path), "is not a bundle"),
    ):
        with pytest.raises(ValueError, match=message):
            load_detector(source)
    with pytest.raises(ValueError, match="abacus"):
        load_detector(str(tiny_student), "abacus")

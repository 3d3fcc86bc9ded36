from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from bevdistill_ros.core.records import Detections
from training.data.index.load import DataConfig
from training.show import compare
from training.show.compare import CompareConfig, found_objects, run_compare


def found(*detections: tuple[float, float, int, float]) -> Detections:
    """Detections of x, y, class and score."""
    boxes = torch.zeros(len(detections), 9)
    boxes[:, :2] = torch.tensor([entry[:2] for entry in detections]).reshape(-1, 2)
    return Detections(
        stamp_ns=0,
        boxes=boxes,
        scores=torch.tensor([entry[3] for entry in detections]),
        labels=torch.tensor([entry[2] for entry in detections], dtype=torch.int64),
    )


def which(boxes: list[tuple[float, float]], labels: list[int], detections: Detections) -> list[bool]:
    truth = torch.zeros(len(boxes), 9)
    truth[:, :2] = torch.tensor(boxes).reshape(-1, 2)
    result: list[bool] = found_objects(truth, torch.tensor(labels), detections, distance=2.0).tolist()
    return result


def test_an_object_is_found_by_a_near_detection_of_its_class() -> None:
    boxes, labels = [(0.0, 0.0), (10.0, 0.0), (20.0, 0.0)], [0, 0, 0]
    assert which(boxes, labels, found((1.9, 0.0, 0, 0.5), (10.0, 2.1, 0, 0.9), (20.0, 0.0, 1, 0.9))) == [
        True,
        False,
        False,
    ]


def test_a_detection_finds_one_object_and_the_best_one_chooses() -> None:
    boxes, labels = [(0.0, 0.0), (1.0, 0.0)], [0, 0]
    assert which(boxes, labels, found((0.9, 0.0, 0, 0.5))) == [False, True]
    assert which(boxes, labels, found((0.9, 0.0, 0, 0.5), (0.8, 0.0, 0, 0.9))) == [True, True]


def test_nothing_to_find_and_nothing_found() -> None:
    assert which([], [], found((0.0, 0.0, 0, 0.5))) == []
    assert which([(0.0, 0.0)], [0], found()) == [False]


@pytest.fixture
def data(tiny_world: Any) -> DataConfig:
    return DataConfig(root=tiny_world.root, version=tiny_world.version, val_split="tiny_val")


@pytest.mark.parametrize("with_teacher", [True, False])
def test_two_students_are_counted_and_drawn(
    tiny_student: Path, tiny_bundle: Path, tiny_teacher: Path, data: DataConfig, tmp_path: Path, with_teacher: bool
) -> None:
    closing = run_compare(
        CompareConfig(
            first=str(tiny_student),
            second=str(tiny_bundle),
            teacher=str(tiny_teacher) if with_teacher else "",
            names=("plain", "exported"),
            data=data,
            score_threshold=0.0,
            distance=1000.0,
            output=tmp_path / "pictures" / "compare.png",
            progress=False,
        )
    )
    # The bundle holds the same student, which with these limits finds whatever there is.
    assert "plain alone 0, exported alone 0, neither 0" in closing
    assert "picture: " in closing
    assert (tmp_path / "pictures" / "compare.png").stat().st_size > 20_000


def test_the_frame_is_that_where_the_second_is_ahead_most(
    tiny_student: Path, data: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects that the first alone finds count against a frame."""
    by_frame = [("1100", "1110"), ("0000", "1100"), ("1111", "0000"), ("1100", "0011")]

    def finds(config: CompareConfig, detectors: object, datasets: object, number: int) -> compare._Frame:
        first, second = (torch.tensor([letter == "1" for letter in found]) for found in by_frame[number])
        return compare._Frame(number=number, first=first, second=second)

    monkeypatch.setattr(compare, "_compared", finds)
    monkeypatch.setattr(compare, "_drawn", lambda *_: Figure())
    closing = run_compare(
        CompareConfig(first=str(tiny_student), second=str(tiny_student), data=data, output=tmp_path / "a.png")
    )
    assert closing.splitlines()[0] == (
        "16 objects in 4 frames: both students find 2, first alone 6, second alone 5, neither 3"
    )
    assert "(frame 1 of tiny_val)" in closing


def test_a_teacher_is_no_student(tiny_teacher: Path, tiny_student: Path, data: DataConfig) -> None:
    with pytest.raises(ValueError, match=r"sees by LiDAR; compare takes two camera students"):
        run_compare(CompareConfig(first=str(tiny_student), second=str(tiny_teacher), data=data))

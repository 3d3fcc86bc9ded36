"""Splits without boxes to learn from, and scoring without annotations: refused before work, with the reasons."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bevdistill_ros.core.grid import BevGrid
from training.data.census import BoxCensus, census_of, check_boxes
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.evaluate.run import EvaluateConfig, evaluate, run_evaluate
from training.run.config import TrainConfig
from training.run.fit import fit

Records = list[dict[str, Any]]
GRID = BevGrid(rows=8, cols=8)


def change(tiny: Any, table: str, edit: Callable[[Records], Any]) -> DataConfig:
    """Edit a table; returns the database."""
    path = tiny.root / tiny.version / f"{table}.json"
    records = json.loads(path.read_text())
    edit(records)
    path.write_text(json.dumps(records))
    return DataConfig(
        root=tiny.root, version=tiny.version, train_split="tiny_train", val_split="tiny_val", num_sweeps=1
    )


def upper_names(records: Records) -> None:
    for record in records:
        record["name"] = record["name"].split(".")[-1].upper()


def far_away(records: Records) -> None:
    for record in records:
        record["translation"][0] += 5000.0


def without_points(records: Records) -> None:
    for record in records:
        record["num_lidar_pts"] = 0


@pytest.mark.parametrize(
    ("table", "edit", "words"),
    [
        (
            "category",
            upper_names,
            r"none of the 9 .* 9 are of categories without a detection class \(.*CAR.*rename them",
        ),
        (
            "sample_annotation",
            without_points,
            r"none of the 9 .* 6 hold fewer than 1 LiDAR points.*; 3 are of categories",
        ),
        ("sample_annotation", list.clear, r"has no annotated box"),
        ("sample_annotation", far_away, r"6 lie off the BEV grid: check that boxes and ego poses share one frame"),
    ],
)
def test_training_without_any_box_is_refused_before_its_first_step(
    tiny: Any,
    make_run: Callable[..., TrainConfig],
    tmp_path: Path,
    table: str,
    edit: Callable[[Records], Any],
    words: str,
) -> None:
    change(tiny, table, edit)
    changes = {"data.root": str(tiny.root), "augment.min_lidar_points": 1}
    with pytest.raises(ValueError, match=words):
        fit(make_run(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_census_by_hand(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In `tiny_val` a car, a barrier and a rack three times, and a pedestrian without a point."""
    index = load_index(DataConfig(root=tiny.root, version=tiny.version, num_sweeps=0))
    assert census_of(index, "tiny_val", GRID, 1) == BoxCensus(learned=6, ignored=3, off_grid=0, too_few_points=1)
    check_boxes(index, "tiny_val", GRID, 1)
    assert not caplog.text
    near = BevGrid(rows=8, cols=8, x_min=-8.0, x_max=8.0, y_min=-8.0, y_max=8.0)
    found = census_of(index, "tiny_val", near, 1)
    assert found.total == 10
    check_boxes(index, "tiny_val", near, 0)
    assert f"only {found.learned + found.too_few_points} of the 10 annotated boxes" in caplog.text


def evaluation(tiny_student: Path, data: DataConfig, output: Path, **changes: Any) -> EvaluateConfig:
    return EvaluateConfig(
        source=str(tiny_student), data=data, output=str(output), num_workers=0, progress=False, **changes
    )


def test_unknown_categories_are_not_scored_unless_asked_for(tiny: Any, tiny_student: Path, tmp_path: Path) -> None:
    data = change(tiny, "category", upper_names)
    with pytest.raises(
        ValueError, match=r"none of the 10 annotations .* is of a detection class; their categories are BARRIER"
    ):
        run_evaluate(evaluation(tiny_student, data, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    text = run_evaluate(evaluation(tiny_student, data, tmp_path / "out", submission=True))
    assert text.startswith("not scored, as asked for")
    assert (tmp_path / "out" / "results.json").is_file()


def test_what_cannot_be_scored_is_found_before_detection(
    tiny: Any, tiny_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.evaluate.run._detect", lambda *_: pytest.fail("detected in vain"))
    data = DataConfig(root=tiny.root, version=tiny.version, val_split="tiny_empty")
    with pytest.raises(ValueError, match="no annotated box of a detection class"):
        evaluate(evaluation(tiny_student, data, tmp_path))


@pytest.mark.parametrize("edit", [list.clear, lambda records: records[0].update(filename="maps/gone.png")])
def test_scoring_needs_no_maps(tiny: Any, edit: Callable[[Records], Any]) -> None:
    change(tiny, "map", edit)
    assert len(open_tables(tiny.root, tiny.version).sample) == 5


def test_scoring_with_a_lidar_of_another_name(tiny: Any, tiny_student: Path, tmp_path: Path) -> None:
    plain = evaluate(evaluation(tiny_student, change(tiny, "sensor", lambda records: None), tmp_path / "plain"))
    data = change(tiny, "sensor", lambda records: records[0].update(channel="ROOF"))
    renamed = DataConfig(**{**vars(data), "lidar": "ROOF"})
    assert evaluate(evaluation(tiny_student, renamed, tmp_path / "renamed")) == plain

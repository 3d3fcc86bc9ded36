import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.nuscenes import CLASS_NAMES, CLASS_RANGES, ERROR_NAMES
from bevdistill_ros.core.records import Detections
from training.data.dataset import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.evaluate.devkit import PROTOCOL, EvaluationInMemory
from training.evaluate.metrics import Metrics, evaluate_detections, evaluate_results
from training.evaluate.results import results_from


@pytest.fixture
def nusc(tiny: Any) -> NuScenes:
    return open_tables(tiny.root, tiny.version)


@pytest.fixture
def index(tiny: Any, nusc: NuScenes) -> NuScenesIndex:
    return load_index(DataConfig(root=tiny.root, version=tiny.version))


def truth(index: NuScenesIndex, split: str) -> dict[str, Detections]:
    """Ground truth as detections of score 1."""
    return {
        index.token(sample): Detections(
            stamp_ns=int(index.stamps_ns[sample]),
            boxes=torch.tensor(index.boxes[index.boxes_of(sample)]),
            scores=torch.ones(len(index.labels[index.boxes_of(sample)])),
            labels=torch.tensor(index.labels[index.boxes_of(sample)]),
        )
        for sample in index.samples_of(split)
    }


@pytest.fixture
def score(nusc: NuScenes, index: NuScenesIndex, tmp_path: Path) -> Callable[..., Metrics]:
    def run(detections: dict[str, Detections], split: str = "tiny_train") -> Metrics:
        return evaluate_detections(nusc, detections, index.poses_of(split), split, tmp_path / "out")

    return run


def test_ground_truth_is_perfect(index: NuScenesIndex, score: Callable[..., Metrics]) -> None:
    """Two of ten classes are there; an absent class has AP 0 and errors of 1."""
    metrics = score(truth(index, "tiny_train"))
    assert metrics.class_ap == {name: pytest.approx(float(name in ("car", "barrier"))) for name in CLASS_NAMES}
    assert metrics.mean_ap == pytest.approx(0.2)
    assert all(error == pytest.approx(0.0, abs=1e-4) for error in metrics.class_tp_errors["car"].values())
    assert metrics.class_tp_errors["barrier"]["vel_err"] is None
    assert metrics.class_tp_errors["bus"]["trans_err"] == 1.0
    # Means over the classes that have the error: 10, 10, 9, 8, 8.
    wanted = {"trans_err": 8 / 10, "scale_err": 8 / 10, "orient_err": 7 / 9, "vel_err": 7 / 8, "attr_err": 7 / 8}
    assert metrics.tp_errors == pytest.approx(wanted, abs=1e-4)
    assert metrics.nds == pytest.approx((5 * 0.2 + sum(1 - error for error in wanted.values())) / 10, abs=1e-4)
    assert metrics.num_samples == 3


def test_shifted_boxes_by_hand(index: NuScenesIndex, score: Callable[..., Metrics]) -> None:
    """0.7 m off: matched at 1, 2 and 4 m but not at 0.5 m."""
    shifted = {
        token: replace(found, boxes=found.boxes + torch.tensor([0.7] + [0.0] * 8))
        for token, found in truth(index, "tiny_train").items()
    }
    metrics = score(shifted)
    assert metrics.class_ap["car"] == pytest.approx(0.75)
    assert metrics.class_tp_errors["car"]["trans_err"] == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize(("column", "error"), [(6, "orient_err"), (7, "vel_err")])
def test_error_reaches_its_metric(index: NuScenesIndex, score: Callable[..., Metrics], column: int, error: str) -> None:
    found = truth(index, "tiny_train")
    for detections in found.values():
        detections.boxes[:, column] += 0.25
    errors = score(found).class_tp_errors["car"]
    assert errors[error] == pytest.approx(0.25, abs=1e-3)
    assert sum(value > 1e-3 for value in errors.values() if value is not None) == 1


def test_box_without_points_is_dropped_from_the_truth_only(index: NuScenesIndex, score: Callable[..., Metrics]) -> None:
    metrics = score(truth(index, "tiny_val"), "tiny_val")
    assert metrics.class_ap["pedestrian"] == 0.0
    assert metrics.class_ap["car"] == pytest.approx(1.0)


def test_nothing_found_scores_zero(index: NuScenesIndex, score: Callable[..., Metrics], tmp_path: Path) -> None:
    """The devkit itself fails on a file without boxes."""
    empty = {token: found.above(2.0) for token, found in truth(index, "tiny_train").items()}
    metrics = score(empty)
    assert (metrics.nds, metrics.mean_ap) == (0.0, 0.0)
    assert set(metrics.tp_errors.values()) == {1.0}
    assert json.loads((tmp_path / "out/results.json").read_text())["results"] == {token: [] for token in empty}


def test_samples_of_other_splits_do_not_matter(index: NuScenesIndex, nusc: NuScenes, tmp_path: Path) -> None:
    everything = truth(index, "tiny_val")
    metrics = evaluate_detections(nusc, everything, index.poses_of("tiny_val"), "tiny_train", tmp_path)
    assert metrics.mean_ap == pytest.approx(0.2)


def test_missing_sample(index: NuScenesIndex, score: Callable[..., Metrics]) -> None:
    found = truth(index, "tiny_train")
    del found["scene-drive-1"]
    with pytest.raises(
        ValueError, match="1 of 3 samples of split 'tiny_train' have no detections, for example scene-drive-1"
    ):
        score(found)


def test_split_without_annotations(index: NuScenesIndex, score: Callable[..., Metrics]) -> None:
    with pytest.raises(ValueError, match="split 'tiny_empty' has no annotated box"):
        score(truth(index, "tiny_empty"), "tiny_empty")


def test_unknown_split(nusc: NuScenes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no split 'val'; splits found: tiny_train, tiny_val, tiny_empty"):
        evaluate_detections(nusc, {}, {}, "val", tmp_path)


def test_results_file_scores_as_its_detections(
    index: NuScenesIndex, nusc: NuScenes, score: Callable[..., Metrics], tmp_path: Path
) -> None:
    found = truth(index, "tiny_train")
    results = results_from(found, index.poses_of("tiny_train"))
    assert evaluate_results(nusc, json.loads(json.dumps(results)), "tiny_train", tmp_path / "other") == score(found)


def test_evaluation_is_quiet_and_leaves_its_files(
    index: NuScenesIndex, score: Callable[..., Metrics], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    metrics = score(truth(index, "tiny_train"))
    assert capfd.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "metrics.json",
        "metrics_summary.json",
    }
    assert Metrics.from_json((tmp_path / "out/metrics.json").read_text()) == metrics
    summary = json.loads((tmp_path / "out/metrics_summary.json").read_text())
    assert summary["nd_score"] == metrics.nds


def test_table_shows_every_class_and_marks_what_is_undefined(
    index: NuScenesIndex, score: Callable[..., Metrics]
) -> None:
    lines = score(truth(index, "tiny_train")).table().splitlines()
    assert lines[0].startswith("tiny_train: NDS 0.187  mAP 0.200  mATE 0.800")
    assert lines[1].split() == ["class", "AP", *ERROR_NAMES.values()]
    assert [line.split()[0] for line in lines[2:]] == list(CLASS_NAMES)
    barrier = next(line for line in lines if line.startswith("barrier"))
    assert barrier.split() == ["barrier", "1.000", "0.000", "0.000", "0.000", "-", "-"]


@pytest.mark.parametrize("text", ["[]", '{"nds": 0.1}'])
def test_foreign_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="metrics must hold"):
        Metrics.from_json(text)


def test_our_class_ranges_are_those_of_the_benchmark() -> None:
    config = config_factory(PROTOCOL)
    assert config.class_range == CLASS_RANGES
    assert set(CLASS_NAMES) == set(config.class_names)
    assert np.isclose(config.dist_th_tp, 2.0)


def test_a_full_disk_leaves_the_results_of_before(
    index: NuScenesIndex, score: Callable[..., Metrics], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("of before")
    request.getfixturevalue("small_files")
    with pytest.raises(OSError, match=r"^cannot write .*/results.json: File too large; free space"):
        score(truth(index, "tiny_train"))
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"results.json": "of before"}


def test_results_in_memory_are_what_the_devkit_reads(index: NuScenesIndex, nusc: NuScenes, tmp_path: Path) -> None:
    results = results_from(truth(index, "tiny_val"), index.poses_of("tiny_val"))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    config = config_factory(PROTOCOL)
    genuine = DetectionEval(nusc, config, str(path), "tiny_val", str(tmp_path / "devkit"), verbose=False)
    ours = EvaluationInMemory(nusc, {token: results["results"][token] for token in genuine.sample_tokens}, "tiny_val")
    for kind in ("gt_boxes", "pred_boxes"):
        rows, expected = (
            [(box.sample_token, str(box.serialize()), box.ego_dist) for box in getattr(evaluation, kind).all]
            for evaluation in (ours, genuine)
        )
        assert rows == expected
    assert len(ours.pred_boxes.all) > 5
    assert ours.evaluate()[1].serialize() == genuine.evaluate()[1].serialize()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detection_name": "tram"}, "detection_name 'tram' is not known"),
        ({"attribute_name": "vehicle.flying"}, "attribute_name 'vehicle.flying' is not known"),
        ({"translation": [1.0, float("nan"), 0.0]}, "a translation is not a number"),
        ({"size": [1.0, 2.0]}, "size must be 3 numbers"),
        ({"detection_score": float("nan")}, "a detection_score is not a number"),
        ({"velocity": "fast"}, "velocity must be 2 numbers, but is 'fast'"),
        ({"rotation": None}, "results hold what is not a box of nuScenes"),
    ],
)
def test_what_is_not_a_box_is_told(
    index: NuScenesIndex, nusc: NuScenes, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    results = results_from(truth(index, "tiny_train"), index.poses_of("tiny_train"))
    boxes = results["results"]["scene-drive-1"]
    boxes[0] = {**boxes[0], **change}
    with pytest.raises(ValueError, match=message):
        EvaluationInMemory(nusc, results["results"], "tiny_train")


def test_a_missing_field_or_too_many_boxes_are_told(index: NuScenesIndex, nusc: NuScenes) -> None:
    results = results_from(truth(index, "tiny_train"), index.poses_of("tiny_train"))["results"]
    box = results["scene-drive-1"][0]
    with pytest.raises(ValueError, match="sample scene-drive-1 has 501 boxes; nuScenes allows 500"):
        EvaluationInMemory(nusc, {**results, "scene-drive-1": [box] * 501}, "tiny_train")
    del box["size"]
    with pytest.raises(ValueError, match="KeyError 'size'"):
        EvaluationInMemory(nusc, results, "tiny_train")

"""Labels of unlabelled drives: tracks, thresholds, and a data set that the devkit reads and a student learns from."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.boxes import points_in_boxes, transform_boxes
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.fit import ImageTarget
from training.bag.write_command import BagWriteConfig, run_bag_write
from training.bag_import.config import BagImportConfig
from training.bag_import.run import run_bag_import
from training.cli.commands import main
from training.cli.settings import settings_from
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.label.records import FrameBoxes
from training.label.run import LabelConfig, run_label
from training.label.scene import with_points
from training.label.thresholds import calibrated_thresholds, given_thresholds, quality_of
from training.label.tracker import TrackConfig, distinct, tracks_of
from training.run.fit import fit

THRESHOLDS = np.full(len(CLASS_NAMES), 0.5)
PEDESTRIAN = CLASS_NAMES.index("pedestrian")


def frame(number: int, *boxes: tuple[float, float, float], label: int = 0, vx: float = 0.0) -> FrameBoxes:
    """A key frame, two a second, of cars (x, y, score)."""
    rows = np.array([[x, y, 0, 4, 2, 1.5, 0, vx, 0] for x, y, _ in boxes], dtype=float).reshape(-1, 9)
    return FrameBoxes(
        token=f"frame-{number}",
        stamp_ns=number * 500_000_000,
        boxes=rows,
        scores=np.array([score for *_, score in boxes], dtype=float),
        labels=np.full(len(boxes), label),
    )


def test_a_moving_car_is_one_track_and_a_lone_detection_none() -> None:
    frames = [frame(0, (0, 0, 0.9), (50, 0, 0.9), vx=10), frame(1, (5, 0, 0.8), vx=10), frame(2, (10, 0, 0.9), vx=10)]
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig())
    assert [(label.frame, label.box[0], label.score) for label in track.labels] == [
        (0, 0, 0.9),
        (1, 5, 0.8),
        (2, 10, 0.9),
    ]
    assert len(tracks_of(frames, THRESHOLDS, TrackConfig(min_length=1))) == 2


def test_nearest_detection_continues_a_track_and_no_other_class() -> None:
    first = frame(0, (0, 0, 0.9), (3, 0, 0.9))
    tracks = tracks_of([first, frame(1, (1, 0, 0.9), (3.1, 0, 0.9))], THRESHOLDS, TrackConfig())
    assert sorted([label.box[0] for label in track.labels] for track in tracks) == [[0, 1], [3, 3.1]]
    assert not tracks_of([first, frame(1, (0, 0, 0.9), label=PEDESTRIAN)], THRESHOLDS, TrackConfig())


def test_weak_detections_continue_tracks_but_begin_none() -> None:
    frames = [frame(0, (0, 0, 0.9), (20, 0, 0.4)), frame(1, (0, 0, 0.3), (20, 0, 0.4)), frame(2, (0, 0, 0.2))]
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig())
    assert [label.score for label in track.labels] == [0.9, 0.3]


def test_gaps_are_filled_evenly_and_long_ones_end_a_track() -> None:
    frames = [frame(0, (0, 0, 0.9), vx=4), frame(1), frame(2, (4, 0, 0.6), vx=4)]
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig())
    filled = track.labels[1]
    assert (filled.frame, filled.box[0], filled.score, filled.is_filled) == (1, 2.0, 0.6, True)
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig(fill_gaps=False))
    assert [label.frame for label in track.labels] == [0, 2]
    assert not tracks_of(frames, THRESHOLDS, TrackConfig(max_gap=0.9))


def test_tracks_that_end_at_once_leave_the_others() -> None:
    first = frame(0, (0, 0, 0.9), (9, 0, 0.9), (20, 0, 0.9))
    frames = [first, frame(1), frame(2, (20, 0, 0.9)), frame(3), frame(4, (20, 0, 0.9)), frame(5, (9, 0, 0.9))]
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig())
    assert [label.box[0] for label in track.labels] == [20] * 5


def test_filled_headings_turn_the_short_way() -> None:
    frames = [frame(0, (0, 0, 0.9)), frame(1), frame(2, (0, 0, 0.9))]
    frames[0].boxes[0, 6], frames[2].boxes[0, 6] = 3.0, -3.0
    (track,) = tracks_of(frames, THRESHOLDS, TrackConfig())
    assert np.cos(track.labels[1].box[6]) == pytest.approx(-1.0)


def test_without_tracking_each_detection_is_a_label() -> None:
    tracks = tracks_of([frame(0, (0, 0, 0.5), (9, 0, 0.4)), frame(1, (0, 0, 0.5))], THRESHOLDS, None)
    assert [[label.frame for label in track.labels] for track in tracks] == [[0], [1]]


def test_the_better_of_two_detections_of_one_object_stays() -> None:
    kept = distinct(frame(0, (0, 0, 0.4), (0.3, 0, 0.9), (2, 0, 0.1)), 0.5)
    assert kept.scores.tolist() == [0.9, 0.1]


def test_thresholds_reach_a_precision_by_hand() -> None:
    found = [frame(0, (0, 0, 0.9), (10, 0, 0.8), (30, 0, 0.7), (20, 0, 0.6), (40, 0, 0.5))]
    truth = [frame(0, (0, 0.5, 1), (10, 0, 1), (20, 1, 1), (60, 0, 1))]
    # Right, right, wrong, right, wrong: precisions 1, 1, 2/3, 3/4, 3/5.
    for precision, expected in ((1.0, 0.8), (0.7, 0.6), (0.6, 0.5), (None, 0.6)):
        assert calibrated_thresholds(found, truth, precision)[0] == expected
    assert calibrated_thresholds(found, truth, 0.7)[1] == 0.3  # no truck anywhere
    quality = quality_of(found, truth, THRESHOLDS)["car"]
    assert (quality.found, quality.right, quality.objects) == (5, 3, 4)
    assert (quality.precision, quality.recall) == (0.6, 0.75)


def test_an_object_is_found_once() -> None:
    quality = quality_of([frame(0, (0, 0, 0.9), (0.6, 0, 0.8))], [frame(0, (0, 0, 1))], THRESHOLDS)["car"]
    assert (quality.found, quality.right) == (2, 1)


def test_thresholds_by_class() -> None:
    thresholds = given_thresholds(0.2, {"car": 0.6})
    assert (thresholds[0], thresholds[1]) == (0.6, 0.2)
    with pytest.raises(ValueError, match="'cars', which is not a class"):
        given_thresholds(0.3, {"cars": 0.6})
    with pytest.raises(ValueError, match="threshold is 0"):
        given_thresholds(0.0, {})


def test_settings_by_class_and_tracks_from_the_command_line() -> None:
    words = [f"--{name}=x" for name in ("checkpoint", "root", "version", "split", "output_version")]
    config = settings_from(LabelConfig, [*words, "--thresholds={car: 0.4}", "--track.min_length=3"])
    assert config.thresholds == {"car": 0.4}
    assert config.track == TrackConfig(min_length=3)
    assert settings_from(LabelConfig, [*words, "--track=null"]).track is None


@pytest.fixture
def settings(tiny: Any, tiny_teacher: Path) -> dict[str, Any]:
    return {
        "checkpoint": str(tiny_teacher),
        "root": tiny.root,
        "version": tiny.version,
        "split": "tiny_empty",
        "output_version": "v1.0-labels",
        "threshold": 0.01,
        "min_points": 0,
        "track": None,
        "device": "cpu",
        "progress": False,
    }


def test_a_scene_without_annotations_is_labelled(settings: dict[str, Any], tiny: Any) -> None:
    closing = run_label(LabelConfig(**settings))
    assert "in 1 frames of 1 scenes" in closing
    nusc = NuScenes("v1.0-labels", str(tiny.root), verbose=False)
    labels = [entry for entry in nusc.sample_annotation if entry["sample_token"] == "scene-empty-0"]
    assert labels
    assert len(nusc.sample_annotation) == len(labels) + 10  # those of the other scenes stay
    for entry in labels:
        assert 0.01 <= entry["score"] <= 1
        assert entry["origin"].startswith("bevdistill label: last.ckpt")
        assert entry["category_name"].split(".")[0] in ("vehicle", "human", "movable_object")
        assert nusc.get("instance", entry["instance_token"])["nbr_annotations"] == 1
    index = load_index(DataConfig(root=tiny.root, version="v1.0-labels", num_sweeps=0))
    (sample,) = index.samples_of("tiny_empty")
    assert len(index.boxes[index.boxes_of(sample)]) == len(labels)
    assert json.loads((tiny.root / "v1.0-labels" / "labels.json").read_text())["thresholds"]["car"] == 0.01


def test_labels_of_a_track_are_linked_and_hold_their_points(settings: dict[str, Any], tiny: Any) -> None:
    track = TrackConfig(max_distance=60.0, continues_at=1.0)
    known = {"split": "tiny_train", "replace": True, "truth_version": tiny.version, "track": track}
    closing = run_label(LabelConfig(**{**settings, **known}))
    assert "precision" in closing
    nusc = NuScenes("v1.0-labels", str(tiny.root), verbose=False)
    chains = [entry for entry in nusc.instance if entry.get("nbr_annotations", 0) > 1]
    assert chains
    for instance in chains:
        entry, seen = nusc.get("sample_annotation", instance["first_annotation_token"]), 1
        while entry["next"]:
            following = nusc.get("sample_annotation", entry["next"])
            assert following["prev"] == entry["token"]
            entry, seen = following, seen + 1
        assert (seen, entry["token"]) == (instance["nbr_annotations"], instance["last_annotation_token"])
    assert not [entry for entry in nusc.sample_annotation if "origin" not in entry and "drive" in entry["sample_token"]]


def test_a_box_without_points_is_not_believed(settings: dict[str, Any], tiny: Any) -> None:
    run_label(LabelConfig(**settings))
    run_label(LabelConfig(**{**settings, "output_version": "v1.0-held", "min_points": 1}))
    rows = [
        json.loads((tiny.root / name / "sample_annotation.json").read_text()) for name in ("v1.0-labels", "v1.0-held")
    ]
    every, held = ([row["num_lidar_pts"] for row in table if "score" in row] for table in rows)
    assert min(every) == 0  # four points are all there is in a frame of the tiny database
    assert held == [count for count in every if count]


def test_points_are_counted_as_by_trying_all_of_them(tiny: Any) -> None:
    index = load_index(DataConfig(root=tiny.root, version=tiny.version, num_sweeps=0))
    dataset = NuScenesDataset(index, "tiny_train", target=ImageTarget(height=36, width=64), num_sweeps=0, cameras=())
    points = np.random.default_rng(0).uniform(-6, 6, (4000, 3))
    dataset.key_frame_points = lambda number: torch.tensor(points)  # type: ignore[method-assign]
    rows = np.array([[0, 0, 0, 4, 2, 3, 0.7, 0, 0], [3, -2, 1, 1, 5, 1, -2, 0, 0], [80, 0, 0, 4, 2, 2, 0, 0, 0]])
    in_global = transform_boxes(torch.tensor(index.global_from_ego[0]), torch.tensor(rows)).numpy()
    expected = points_in_boxes(torch.tensor(points), torch.tensor(rows)).sum(dim=1).tolist()
    frames = [FrameBoxes(token="a", stamp_ns=0, boxes=in_global, scores=np.ones(3), labels=np.zeros(3, dtype=int))]
    dataset.samples = dataset.samples[:1]
    assert min(expected[:2]) > 10
    for least in (1, expected[0], expected[0] + 1):
        (kept,) = with_points(dataset, frames, least)
        assert len(kept.boxes) == sum(count >= least for count in expected)


def test_frames_that_were_not_labelled_stay_unlabelled(settings: dict[str, Any], tiny: Any) -> None:
    for name in ("sample_annotation", "instance"):
        (tiny.root / tiny.version / f"{name}.json").write_text("[]")
    run_label(LabelConfig(**settings))
    index = load_index(DataConfig(root=tiny.root, version="v1.0-labels", num_sweeps=0))
    assert index.annotated.tolist() == [False, False, False, False, True]


def test_labels_of_another_root_link_to_the_data(settings: dict[str, Any], tiny: Any, tmp_path: Path) -> None:
    run_label(LabelConfig(**{**settings, "output_root": tmp_path / "other"}))
    assert (tmp_path / "other" / "samples").resolve() == (tiny.root / "samples").resolve()
    assert len(load_index(DataConfig(root=tmp_path / "other", version="v1.0-labels", num_sweeps=0))) == 5


def test_an_interrupted_run_goes_on(settings: dict[str, Any], tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.label import run

    original, labelled = run.label_scene, []

    def counted(task: Any, scene: str) -> Any:
        if len(labelled) == 1:
            raise KeyboardInterrupt
        labelled.append(scene)
        return original(task, scene)

    both = {**settings, "split": "tiny_val", "replace": True}
    monkeypatch.setattr(run, "label_scene", counted)
    with pytest.raises(KeyboardInterrupt):
        run_label(LabelConfig(**both))
    (kept,) = tiny.root.glob(".*.scenes")
    assert len(list(kept.iterdir())) == 1
    (tiny.root / ".v1.0-labels.0123.scenes").mkdir()  # of a run with other settings that was given up
    monkeypatch.setattr(run, "label_scene", lambda task, scene: labelled.append(scene) or original(task, scene))
    text = run_label(LabelConfig(**both))
    assert len(labelled) == len(set(labelled)) == 2
    assert "of 2 scenes" in text
    assert not list(tiny.root.glob(".*.scenes"))


def test_an_interrupted_run_of_other_settings_or_tables_is_not_taken_up(settings: dict[str, Any], tiny: Any) -> None:
    from training.label.run import _Memory, _Task

    def folder(**changes: Any) -> Path:
        task = _Task(config=LabelConfig(**{**settings, **changes}), thresholds=(0.1,), origin="teacher")
        return _Memory(tiny.root / "v1.0-labels", task)._folder

    before = folder()
    assert folder(processes=2, progress=True) == before
    assert folder(min_points=5) != before
    os.utime(tiny.root / tiny.version / "sample_data.json", (0, 0))
    assert folder() != before


def test_mistakes_leave_nothing(settings: dict[str, Any], tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"3 of 3 frames of split 'tiny_train' are annotated already"):
        run_label(LabelConfig(**{**settings, "split": "tiny_train"}))
    with pytest.raises(ValueError, match="needs calibrate_split"):
        LabelConfig(**{**settings, "precision": 0.7})
    for path in (tiny.root / "samples" / "LIDAR_TOP").glob("LIDAR_TOP-20*"):
        path.write_bytes(b"123")
    with pytest.raises(ValueError, match=r"no scene was labelled.*cut off"):
        run_label(LabelConfig(**settings))
    assert not (tiny.root / "v1.0-labels").exists()


def test_thresholds_are_calibrated_on_an_annotated_split(settings: dict[str, Any], tiny: Any) -> None:
    settings |= {"calibrate_split": "tiny_train", "precision": 0.5}
    run_label(LabelConfig(**settings))
    found = json.loads((tiny.root / "v1.0-labels" / "labels.json").read_text())["thresholds"]
    assert set(found) == set(CLASS_NAMES)
    with pytest.raises(ValueError, match="'tiny_empty' has no annotations to calibrate with"):
        run_label(LabelConfig(**{**settings, "calibrate_split": "tiny_empty", "output_version": "v1.0-other"}))


def test_labels_train_a_student(
    settings: dict[str, Any], tiny: Any, train_arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    words = [f"--{name}={json.dumps(value, default=str).strip(chr(34))}" for name, value in settings.items()]
    assert main(["label", *words]) == 0
    data = {"data.root": str(tiny.root), "data.version": "v1.0-labels", "data.train_split": "tiny_empty"}
    assert main(["train", *train_arguments(tmp_path / "run", **data)]) == 0
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_bag_without_annotations_trains_a_student(
    tiny: Any, tiny_teacher: Path, make_run: Callable[..., Any], tmp_path: Path
) -> None:
    database = type(tiny)(tmp_path / "whole", front_delay=0.0, is_whole=True, start=1.0)
    database.write()
    run_bag_write(
        BagWriteConfig(root=database.root, version=database.version, output=tmp_path / "bags", progress=False)
    )
    config = BagImportConfig(
        bags=(tmp_path / "bags",), root=tmp_path / "set", annotation_topic="", num_workers=1, progress=False
    )
    run_bag_import(config)
    assert not load_index(DataConfig(root=config.root, version=config.version, num_sweeps=0)).annotated.any()
    label = LabelConfig(
        checkpoint=str(tiny_teacher),
        root=config.root,
        version=config.version,
        split="bags_all",
        output_version="v1.0-labels",
        threshold=0.01,
        min_points=0,
        track=None,
        device="cpu",
        progress=False,
    )
    run_label(label)
    index = load_index(DataConfig(root=config.root, version="v1.0-labels", num_sweeps=0))
    assert index.annotated.all()
    assert (np.diff(index.box_offsets) > 0).all()
    data = {"data.root": str(config.root), "data.version": "v1.0-labels", "data.train_split": "bags_all"}
    weigh = {"data.label_weight": "score", "data.val_split": "bags_all"}
    assert fit(make_run(tmp_path / "run", **data, **weigh)).is_file()

"""Detections that a vehicle recorded, beside a data set, and the score of what was published in time."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nuscenes.nuscenes import NuScenes
from rosbags.rosbag2 import StoragePlugin

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.core.records import Detections
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.answers import detections_data, status_data
from training.bag.poses import PoseTrack, VehiclePoses
from training.bag.read_bag import BagError, read_bag
from training.bag.recording import VISION_TYPE, Recording, SetStatus, read_recording
from training.bag.writer import bag_writer
from training.data.tables import open_tables
from training.evaluate.metrics import evaluate_boxes
from training.score.boxes import table_of
from training.score.detections import found_in
from training.score.eligible import eligible, off_racks
from training.score.frames import frames_of
from training.score.latency_aware import carried, in_time_results, score_in_time
from training.score.recorded import RecordedDrives, match_drives, own_results, publication_times
from training.score.run import ScoreConfig, run_score

MS = 1_000_000
KEY_NS = [1_000_000_000, 1_500_000_000, 2_000_000_000]
CAR_SIZE = (4.5, 1.9, 1.6)


def pose_at(world: Any, stamp_ns: int) -> np.ndarray:
    return np.asarray(world.global_from_ego_at(stamp_ns / 1e9))


def car_at(world: Any, stamp_ns: int) -> list[float]:
    """The annotated car, at 5 m/s along global x from (110, 50, 1), in the ego frame at a stamp."""
    pose = pose_at(world, stamp_ns)
    seconds = stamp_ns / 1e9
    place = np.linalg.inv(pose) @ np.array([110.0 + 5.0 * seconds, 50.0, 1.0, 1.0])
    yaw = -math.atan2(pose[1, 0], pose[0, 0])
    velocity = 5.0 * np.array([math.cos(yaw), math.sin(yaw)])
    return [*place[:3], *CAR_SIZE, yaw, *velocity]


def found_at(world: Any, stamp_ns: int) -> Detections:
    return Detections(
        stamp_ns=stamp_ns,
        boxes=torch.tensor([car_at(world, stamp_ns)], dtype=torch.float32),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([CLASS_NAMES.index("car")]),
    )


def status_of(stamp_ns: int, latency_ms: float) -> SetStatus:
    return SetStatus(
        stamp_ns=stamp_ns,
        spread_ms=30.0,
        latency_ms=latency_ms,
        stage_ms={"inference": latency_ms},
        sets_processed=1,
        sets_dropped=0,
        drop_reason="",
        age_ms={"CAM_FRONT": latency_ms, "CAM_BACK": latency_ms - 30.0},
    )


@pytest.fixture(scope="module")
def world(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Key frames at 1, 1.5 and 2 s, whose front images have the LiDAR's stamps."""
    made = type(tiny_world)(tmp_path_factory.mktemp("whole") / "world", front_delay=0.0, is_whole=True, start=1.0)
    made.write()
    return made


@pytest.fixture(scope="module")
def nusc(world: Any) -> NuScenes:
    return open_tables(world.root, world.version)


def recording_of(world: Any, latency_ms: float, *, period_ns: int = 100 * MS) -> Recording:
    """A perfect detector at 10 Hz from 1 s to 2 s."""
    stamps = range(KEY_NS[0], KEY_NS[-1] + 1, period_ns)
    return Recording(
        detections={stamp: found_at(world, stamp) for stamp in stamps},
        statuses=tuple(status_of(stamp, latency_ms) for stamp in stamps),
        received_ns={stamp: stamp + round((latency_ms + 5) * MS) for stamp in stamps},
    )


def drives_of(world: Any, nusc: NuScenes, latency_ms: float, **options: Any) -> RecordedDrives:
    recording = recording_of(world, latency_ms, period_ns=options.pop("period_ns", 100 * MS))
    return match_drives(nusc, "tiny_train", [recording], [PoseTrack({})], **options)


def placed(results: Mapping[str, Any]) -> list[float | None]:
    """Global x of the car by key frame."""
    return [boxes[0]["translation"][0] if boxes else None for boxes in results["results"].values()]


def test_by_hand(world: Any, nusc: NuScenes) -> None:
    """250 ms late at 10 Hz: at 1.5 s the newest is of 1.2 s; the car is 1.5 m behind, or carried on to its place."""
    drives = drives_of(world, nusc, 250.0)
    assert (drives.camera, drives.published) == ("CAM_FRONT", "status")
    behind, ages = in_time_results(drives, carry=False)
    assert list(ages.values()) == [None, 300.0, 300.0]
    assert placed(behind) == [None, pytest.approx(116.0, abs=1e-4), pytest.approx(118.5, abs=1e-4)]
    there, _ = in_time_results(drives, carry=True)
    assert placed(there) == [None, pytest.approx(117.5, abs=1e-4), pytest.approx(120.0, abs=1e-4)]
    for boxes in there["results"].values():
        for box in boxes:  # ego motion between the stamps, 3 m and 0.06 rad of a curve, leaves no trace
            np.testing.assert_allclose(box["translation"][1:], [50.0, 1.0], atol=1e-4)
            np.testing.assert_allclose(box["velocity"], [5.0, 0.0], atol=1e-4)


def test_received_times_and_delays(world: Any, nusc: NuScenes) -> None:
    drives = drives_of(world, nusc, 95.0, published="received")
    assert list(in_time_results(drives, carry=True)[1].values()) == [None, 100.0, 100.0]
    assert list(in_time_results(drives, carry=True, extra_delay_ms=1.1)[1].values()) == [None, 200.0, 200.0]
    at_once = drives_of(world, nusc, 95.0, published="stamp")
    assert list(in_time_results(at_once, carry=True)[1].values()) == [0.0, 0.0, 0.0]


def scores_of(world: Any, nusc: NuScenes, drives: RecordedDrives, output: Path, **options: Any) -> tuple[Any, Any]:
    """The official metrics of the key frames' own outputs, and those of what was there in time."""
    results, _ = own_results(drives)
    evaluated = evaluate_boxes(nusc, results, "tiny_train", output)
    frames = frames_of(nusc, "tiny_train")
    truth = table_of(evaluated.truth, frames.tokens)
    return evaluated.metrics, score_in_time(nusc, drives, truth, frames, "tiny_train", **options)


def test_without_latency_it_is_the_ordinary_score(world: Any, nusc: NuScenes, tmp_path: Path) -> None:
    official, in_time = scores_of(world, nusc, drives_of(world, nusc, 0.0), tmp_path, carry=True)
    assert official.class_ap["car"] == pytest.approx(1.0)
    assert in_time.metrics.nds == pytest.approx(official.nds, abs=1e-9)
    assert in_time.metrics.class_ap == pytest.approx(official.class_ap, abs=1e-9)
    for name, errors in official.class_tp_errors.items():
        assert in_time.metrics.class_tp_errors[name] == pytest.approx(errors, abs=1e-9)
    assert in_time.to_dict()["age_ms"] == {"p50": 0.0, "p95": 0.0}


def test_it_falls_with_an_artificial_delay(world: Any, nusc: NuScenes, tmp_path: Path) -> None:
    drives = drives_of(world, nusc, 0.0)
    scores = [
        scores_of(world, nusc, drives, tmp_path, carry=False, extra_delay_ms=delay)[1].metrics.nds
        for delay in (0.0, 100.0, 200.0, 400.0)
    ]
    assert all(later < earlier for earlier, later in pairwise(scores)), scores
    # Only the first key frame, which has nothing yet, is lost where boxes are carried on.
    carry = scores_of(world, nusc, drives, tmp_path, carry=True, extra_delay_ms=400.0)[1]
    assert carry.metrics.class_ap["car"] > 0.5
    assert carry.without == 1


def test_boxes_are_carried_in_the_frame_of_their_stamp() -> None:
    found = Detections(
        stamp_ns=0,
        boxes=torch.tensor([[10.0, 2.0, 0.5, 4.0, 2.0, 1.5, 0.3, 4.0, -2.0]]),
        scores=torch.ones(1),
        labels=torch.zeros(1, dtype=torch.int64),
    )
    moved = carried(found, 0.5)
    assert moved.boxes[0].tolist() == pytest.approx([12.0, 1.0, 0.5, 4.0, 2.0, 1.5, 0.3, 4.0, -2.0])
    assert found.boxes[0, 0] == 10.0


def test_the_devkits_filters(world: Any, nusc: NuScenes, tmp_path: Path) -> None:
    """Boxes out of the range of their class, and a bicycle in a rack, count neither here nor there."""
    results, _ = own_results(drives_of(world, nusc, 0.0))
    (first, *_) = results["results"].values()
    rack, far = {**first[0], "translation": [105.0, 65.0, 1.0]}, {**first[0], "translation": [300.0, 50.0, 1.0]}
    for token, boxes in results["results"].items():
        boxes += [{**rack, "sample_token": token, "detection_name": "bicycle", "attribute_name": ""}]
        boxes += [{**far, "sample_token": token}, {**rack, "sample_token": token}]
    evaluated = evaluate_boxes(nusc, results, "tiny_train", tmp_path)
    frames = frames_of(nusc, "tiny_train")
    expected = table_of(evaluated.found, frames.tokens)
    found = found_in(off_racks(nusc, results), frames)
    found = found.take(eligible(found))
    assert len(found) == len(expected) == 6
    np.testing.assert_array_equal(found.label, expected.label)
    np.testing.assert_allclose(found.centre, expected.centre)


def test_publication_by_status(world: Any) -> None:
    """The age of the anchoring image counts; of another camera's name the latency does, which is never shorter."""
    recording = recording_of(world, 80.0)
    assert publication_times([recording], "CAM_BACK", "status")[0][KEY_NS[0]] == KEY_NS[0] + 50 * MS
    assert publication_times([recording], "OTHER", "auto")[0][KEY_NS[0]] == KEY_NS[0] + 80 * MS
    some = replace(recording, statuses=recording.statuses[1:])
    assert publication_times([some], "CAM_FRONT", "auto")[0][KEY_NS[0]] == KEY_NS[0] + 80 * MS
    none = replace(recording, statuses=())
    assert publication_times([none], "CAM_FRONT", "auto")[1] == "received"
    with pytest.raises(BagError, match="no status with a latency"):
        publication_times([none], "CAM_FRONT", "status")
    early = replace(none, received_ns={stamp: stamp - MS for stamp in none.detections})
    with pytest.raises(BagError, match="the recorder's clock is not that of the stamps"):
        publication_times([early], "CAM_FRONT", "auto")


def test_a_key_frame_that_was_dropped_is_unanswered(world: Any, nusc: NuScenes) -> None:
    recording = recording_of(world, 50.0)
    kept = {stamp: found for stamp, found in recording.detections.items() if stamp != KEY_NS[1]}
    drives = match_drives(nusc, "tiny_train", [replace(recording, detections=kept)], [PoseTrack({})])
    results, unanswered = own_results(drives)
    assert unanswered == 1
    assert [len(boxes) for boxes in results["results"].values()] == [1, 0, 1]
    assert list(in_time_results(drives, carry=True)[1].values()) == [None, 100.0, 100.0]


def test_another_data_set_is_told(world: Any, nusc: NuScenes) -> None:
    recording = recording_of(world, 50.0)
    elsewhere = {
        stamp + 333 * MS: replace(found, stamp_ns=stamp + 333 * MS) for stamp, found in recording.detections.items()
    }
    with pytest.raises(BagError, match="no detection has the stamp of a key frame"):
        match_drives(nusc, "tiny_train", [replace(recording, detections=elsewhere)], [PoseTrack({})])


def test_poses_between_key_frames_follow_the_recorded_motion(world: Any) -> None:
    """The data set knows two poses a second apart; the vehicle's own odometry, of another origin, knows the curve."""
    known = PoseTrack({stamp: pose_at(world, stamp) for stamp in (1_000_000_000, 2_000_000_000)})
    away = transform_from(np.array([0.8, 0.0, 0.0, 0.6]), np.array([7.0, -3.0, 1.0]))
    odometry = PoseTrack({stamp: away @ pose_at(world, stamp) for stamp in range(900_000_000, 2_100_000_000, 10 * MS)})
    for stamp in (1_000_000_000, 1_234_567_890, 1_700_000_000, 2_000_000_400):
        found = VehiclePoses(known, odometry).at(stamp)
        assert found is not None
        np.testing.assert_allclose(found, pose_at(world, stamp), atol=1e-4)
    alone = VehiclePoses(known, PoseTrack({})).at(1_500_000_000)
    assert alone is not None
    assert 0.1 < np.abs(alone - pose_at(world, 1_500_000_000)).max() < 0.5  # a straight line
    assert VehiclePoses(known, PoseTrack({})).at(3_000_000_000) is None
    assert PoseTrack({}).at(0) is None


def write_drive(world: Any, path: Path, *, latency_ms: float, prefix: str = "/bevdistill_detector") -> Path:
    """As `ros2 bag record` writes: detections, status and odometry at their time of receipt, no images."""
    store, kind = messages.detector_types(), "nav_msgs/msg/Odometry"
    recording = recording_of(world, latency_ms)
    with bag_writer(path, StoragePlugin.MCAP) as writer:
        topics = {
            topic: writer.add_connection(topic, own, typestore=store)
            for topic, own in (
                (prefix + DETECTIONS_TOPIC.removeprefix("/bevdistill_detector"), messages.DETECTIONS_TYPE),
                (prefix + STATUS_TOPIC.removeprefix("/bevdistill_detector"), messages.STATUS_TYPE),
                ("/odom", kind),
            )
        }
        detections, statuses, odometry = topics.values()
        for status in recording.statuses:
            late_ns = recording.received_ns[status.stamp_ns]
            found = recording.detections[status.stamp_ns]
            writer.write(detections, late_ns, detections_data(found, frame_id="base_link", model="tiny 1"))
            content = status_data(
                status.stamp_ns,
                frame_id="base_link",
                age_ms=status.age_ms,
                stage_ms=status.stage_ms,
                spread_ms=status.spread_ms,
                latency_ms=status.latency_ms,
                sets_processed=1,
                sets_dropped=0,
                drop_reason="",
            )
            writer.write(statuses, late_ns, content)
            pose = messages.odometry(
                status.stamp_ns, parent="odom", child="base_link", pose=pose_at(world, status.stamp_ns),
                linear=np.zeros(3), angular=np.zeros(3),
            )  # fmt: skip
            writer.write(odometry, status.stamp_ns, messages.serialize(pose, kind))
    return path


def test_a_vehicles_own_recording_is_read(world: Any, tmp_path: Path) -> None:
    path = write_drive(world, tmp_path / "drive", latency_ms=80.0, prefix="/front/detector")
    recording = read_recording(path, base_frame="", detections_topic="")
    assert len(recording.detections) == len(recording.statuses) == 11
    assert recording.received_ns[KEY_NS[0]] == KEY_NS[0] + 85 * MS
    assert recording.statuses[0].age_ms == {"CAM_FRONT": 80.0, "CAM_BACK": 50.0}
    track = PoseTrack.of_bag(read_bag(path), "base_link")
    np.testing.assert_allclose(track.at(1_550_000_000), pose_at(world, 1_550_000_000), atol=1e-2)
    with pytest.raises(BagError, match="has no /bevdistill_detector/output/detections"):
        read_recording(path)


def test_the_command_scores_a_recording(world: Any, tmp_path: Path) -> None:
    path = write_drive(world, tmp_path / "drive", latency_ms=80.0, prefix="/front/detector")
    config = ScoreConfig(
        bags=(path,), root=world.root, version=world.version, split="tiny_train", output=tmp_path / "score",
        extra_delay_ms=(100.0,), carry=False,
    )  # fmt: skip
    text = run_score(config)
    report = json.loads((tmp_path / "score/report.json").read_text())
    assert report["whole"]["class_ap"]["car"] == pytest.approx(1.0)
    assert set(report) > {"schema", "bands", "curves", "frames", "timing", "latency_aware"}
    late = report["latency_aware"]
    assert (late["published"], late["camera"], late["carry"]) == ("status", "CAM_FRONT", False)
    assert late["nds"] < report["whole"]["nds"]
    assert [point["extra_delay_ms"] for point in late["delays"]] == [0.0, 100.0]
    assert late["delays"][1]["nds"] < late["nds"] == late["delays"][0]["nds"]
    timing = report["timing"]
    assert timing["latency_ms"]["inference"]["p99"] == pytest.approx(80.0)
    assert (timing["sets_sent"], timing["sets_lost"], timing["spread_ms"]["max"]) == (11, 0, 30.0)
    assert timing["timeline"][3] == {
        "recording": "drive",
        "stamp_ns": KEY_NS[0] + 300 * MS,
        "published_ns": KEY_NS[0] + 380 * MS,
        "latency_ms": 80.0,
        "spread_ms": 30.0,
        "stages": {"inference": 80.0},
    }
    assert (timing["samples"], timing["samples_unanswered"]) == (3, 0)
    for words in (
        "key frames without an answer: 0 of 3",
        "what was there in time (published by status; boxes as they were)",
        "| inference | 80.0 |",
    ):
        assert words in text


def test_a_split_with_a_scene_that_was_not_recorded_is_told(world: Any, tmp_path: Path) -> None:
    path, output = write_drive(world, tmp_path / "drive", latency_ms=80.0), tmp_path / "out"
    config = ScoreConfig(bags=(path,), root=world.root, version=world.version, split="tiny_val", output=output)
    with pytest.raises(BagError, match="the bags have no detections of scene-stand; give bags of all its scenes"):
        run_score(config)
    assert not output.exists()


def test_one_source_must_be_named(world: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give either results"):
        ScoreConfig(root=world.root)
    with pytest.raises(ValueError, match="give either results"):
        ScoreConfig(root=world.root, results=tmp_path / "results.json", bags=(tmp_path,))
    with pytest.raises(ValueError, match="extra_delay_ms must not be negative"):
        ScoreConfig(root=world.root, bags=(tmp_path,), extra_delay_ms=(-1.0,))


def test_detections_of_vision_msgs(tmp_path: Path) -> None:
    """They have no velocities, and the best of several classes counts."""
    package, types = "vision_msgs/msg", messages.standard_types().types
    pose = np.eye(4)
    pose[:3, 3] = [10.0, 2.0, 1.0]
    content = messages.vision_detections(
        KEY_NS[0], "base_link", [{"id": "7", "category": "car", "pose": pose, "size": CAR_SIZE}]
    )
    (entry,) = content.detections
    entry.results[0].hypothesis.score = 0.4
    other = types[f"{package}/ObjectHypothesis"](class_id="truck", score=0.6)
    entry.results.append(types[f"{package}/ObjectHypothesisWithPose"](hypothesis=other, pose=entry.results[0].pose))
    with bag_writer(tmp_path / "drive", StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/perception/objects", VISION_TYPE, typestore=messages.standard_types())
        writer.write(topic, KEY_NS[0] + 60 * MS, messages.serialize(content, VISION_TYPE))
    recording = read_recording(tmp_path / "drive", detections_topic="")
    (found,) = recording.detections.values()
    np.testing.assert_allclose(found.boxes, [[10.0, 2.0, 1.0, *CAR_SIZE, 0.0, 0.0, 0.0]], rtol=1e-6)
    assert (found.labels.tolist(), found.scores.tolist()) == ([CLASS_NAMES.index("truck")], [pytest.approx(0.6)])
    assert recording.statuses == ()
    assert recording.received_ns == {KEY_NS[0]: KEY_NS[0] + 60 * MS}

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rosbags.rosbag2 import StoragePlugin, Writer

from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from bevdistill_ros.core.records import Detections
from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, STATUS_TOPIC
from training.bag import messages
from training.bag.read_bag import BagError, BagSample
from training.bag.recording import SetStatus, detections_of, read_recording
from training.evaluate.metrics import Metrics
from training.evaluate.results import results_from
from training.replay.report import ReplayReport, write_report
from training.replay.score import match_samples, merge
from training.score.timing import drops_by_reason, drops_of, latencies

START_NS = 1_600_000_000_000_000_123
ARRAY, STATUS = "bevdistill_ros/msg/Detection3DArray", "bevdistill_ros/msg/PipelineStatus"


def make(kind: str, **fields: Any) -> Any:
    return messages.detector_types().types[kind](**fields)


def array(stamp_ns: int, boxes: list[list[float]], *, frame: str = "base_link", name: str = "truck") -> Any:
    """Detection3DArray of boxes [x y z l w h yaw vx vy], with scores 0.9, 0.8, ..."""
    entries = []
    for index, (x, y, z, length, width, height, yaw, vx, vy) in enumerate(boxes):
        pose = np.eye(4)
        pose[:2, :2] = [[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]]
        pose[:3, 3] = x, y, z
        entries.append(
            make(
                "bevdistill_ros/msg/Detection3D",
                class_name=name,
                score=0.9 - 0.1 * index,
                pose=messages.pose_message(pose),
                size=messages.vector([length, width, height]),
                velocity=messages.vector([vx, vy, 0.0]),
                attribute="",
            )
        )
    return make(ARRAY, header=messages.header(stamp_ns, frame), model="tiny", detections=entries)


def status(stamp_ns: int, *, decode: float = 5.0, dropped: int = 0, reason: str = "") -> SetStatus:
    return SetStatus(
        stamp_ns=stamp_ns,
        spread_ms=10.0,
        latency_ms=decode + 20.0,
        stage_ms={"decode": decode, "inference": 15.0},
        sets_processed=1,
        sets_dropped=dropped,
        drop_reason=reason,
    )


def sample(token: str, stamp_ns: int) -> BagSample:
    origin = np.eye(4)
    origin[:3, 3] = [1000.0, 2000.0, 0.0]
    stamps = {"CAM_FRONT": stamp_ns, "CAM_BACK": stamp_ns + 20_000_000}
    return BagSample(
        scene="made", token=token, stamp_ns=stamp_ns + 40_000_000, channel_stamps_ns=stamps, global_from_map=origin
    )


def test_message_to_boxes() -> None:
    box = [10.0, -3.0, 0.5, 4.5, 1.9, 1.6, 2.5, 3.0, -1.0]
    found = detections_of(array(START_NS, [box, [0.0] * 3 + [1.0] * 3 + [0.0] * 3]))
    assert found.stamp_ns == START_NS
    torch.testing.assert_close(found.boxes[0], torch.tensor(box))
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8]))
    assert found.labels.tolist() == [1, 1]
    assert detections_of(array(START_NS, [])).boxes.shape == (0, 9)


def test_stamp_of_serialised_bytes() -> None:
    data = bytes(messages.detector_types().serialize_cdr(array(START_NS, [[1.0] * 9]), ARRAY))
    assert messages.stamp_in(data) == START_NS
    big_endian = bytes(messages.detector_types().serialize_cdr(array(START_NS, []), ARRAY, little_endian=False))
    assert messages.stamp_in(big_endian) == START_NS


def test_boxes_of_another_frame_or_class_are_refused() -> None:
    with pytest.raises(ValueError, match="in the frame 'map', but only 'base_link' can be scored"):
        detections_of(array(START_NS, [], frame="map"))
    with pytest.raises(ValueError, match="unknown classes tram"):
        detections_of(array(START_NS, [[0.0] * 9], name="tram"))


def test_a_recording_comes_back(tmp_path: Path) -> None:
    store = messages.detector_types()
    content = make(
        STATUS,
        header=messages.header(START_NS, "base_link"),
        cameras=["CAM_FRONT"],
        present=np.array([True]),
        age_ms=np.array([3.0], dtype=np.float32),
        spread_ms=4.0,
        stages=["decode", "publish"],
        stage_ms=np.array([5.0, 0.5], dtype=np.float32),
        latency_ms=9.0,
        sets_processed=1,
        sets_dropped=2,
        drop_reason="late",
    )
    with Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        boxes = writer.add_connection(DETECTIONS_TOPIC, ARRAY, typestore=store)
        states = writer.add_connection(STATUS_TOPIC, STATUS, typestore=store)
        writer.write(boxes, START_NS, store.serialize_cdr(array(START_NS, [[1.0] * 9]), ARRAY))
        writer.write(states, START_NS, store.serialize_cdr(content, STATUS))
    recording = read_recording(tmp_path / "bag")
    torch.testing.assert_close(recording.detections[START_NS].boxes, torch.ones(1, 9))
    (status,) = recording.statuses
    assert status.stage_ms == {"decode": 5.0, "publish": 0.5}
    assert (status.stamp_ns, status.sets_dropped, status.drop_reason) == (START_NS, 2, "late")


def test_a_detection_goes_to_the_global_frame_by_the_pose_at_its_own_stamp() -> None:
    at_image, at_lidar = np.eye(4), np.eye(4)
    at_image[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]  # heading along global y
    at_image[:3, 3] = [5.0, 6.0, 0.0]
    at_lidar[:3, 3] = [5.0, 6.4, 0.0]
    found = detections_of(array(START_NS, [[10.0, 2.0, 1.0, 4.5, 1.9, 1.6, 0.0, 3.0, 0.0]]))
    poses = {START_NS: at_image, START_NS + 40_000_000: at_lidar}
    scored = match_samples({START_NS: found}, [sample("s0", START_NS)], poses, "CAM_FRONT")
    assert scored.unanswered == ()
    (entry,) = results_from(scored.detections, scored.global_from_ego)["results"]["s0"]
    # 10 m ahead is +10 in y, 2 m to the left is -2 in x
    np.testing.assert_allclose(entry["translation"], [1003.0, 2016.0, 1.0])
    np.testing.assert_allclose(entry["velocity"], [0.0, 3.0], atol=1e-6)


def test_only_the_exact_stamp_matches() -> None:
    found = detections_of(array(START_NS + 1, [[1.0] * 9]))
    poses = {START_NS: np.eye(4), START_NS + 1: np.eye(4)}
    scored = match_samples({START_NS + 1: found}, [sample("s0", START_NS)], poses, "CAM_FRONT")
    assert scored.unanswered == ("s0",)
    assert len(scored.detections["s0"].boxes) == 0


def test_an_answer_without_boxes_is_an_answer() -> None:
    found = detections_of(array(START_NS, []))
    scored = match_samples({START_NS: found}, [sample("s0", START_NS)], {START_NS: np.eye(4)}, "CAM_FRONT")
    assert scored.unanswered == ()


def test_what_cannot_be_matched_is_told() -> None:
    with pytest.raises(BagError, match="has no image of CAM_LEFT; it has CAM_FRONT, CAM_BACK"):
        match_samples({}, [sample("s0", START_NS)], {START_NS: np.eye(4)}, "CAM_LEFT")
    with pytest.raises(BagError, match="has no odometry at"):
        match_samples({}, [sample("s0", START_NS)], {}, "CAM_FRONT")


def test_bags_are_scored_together_but_none_twice() -> None:
    poses = {START_NS: np.eye(4), START_NS + 1: np.eye(4)}
    first = match_samples({}, [sample("s0", START_NS)], poses, "CAM_FRONT")
    second = match_samples({}, [sample("s1", START_NS + 1)], poses, "CAM_FRONT")
    both = merge([first, second])
    assert both.unanswered == ("s0", "s1")
    assert set(both.detections) == set(both.global_from_ego) == {"s0", "s1"}
    with pytest.raises(ValueError, match="s0 is in two of the bags"):
        merge([first, first])


def test_latency_leaves_out_the_warm_up() -> None:
    statuses = [status(START_NS, decode=900.0)] + [status(START_NS + i, decode=float(i)) for i in range(1, 102)]
    found = latencies(statuses, [5.0, 10.0, 20.0], warm_up=1)
    assert found["decode"].count == 101
    assert (found["decode"].p50, found["decode"].p95, found["decode"].p99) == (51.0, 96.0, 100.0)
    assert found["decode"].max == 101.0
    assert found["inference"].max == 15.0
    assert found["oldest image to publish"].max == 121.0
    assert found["reference image to answer"].p50 == 15.0
    # Where there is nothing but warm-up, that is what there is
    assert latencies(statuses[:1], [], warm_up=3)["decode"].max == 900.0
    assert latencies([], []) == {}


def test_drops_go_to_the_reason_told_next() -> None:
    statuses = [
        status(0, dropped=1, reason="late"),
        status(1, dropped=1, reason="late"),
        status(2, dropped=4, reason="missing CAM_BACK"),
        status(3, dropped=5, reason="late"),
    ]
    assert drops_by_reason(statuses) == {"late": 2, "missing CAM_BACK": 3}
    assert drops_by_reason(statuses, dropped_before=1) == {"late": 1, "missing CAM_BACK": 3}
    assert drops_by_reason([*statuses, status(4), status(5, dropped=2, reason="late")])["late"] == 4
    assert drops_by_reason([]) == {}


def test_drops_of_several_recordings_are_their_own() -> None:
    """The second node begins to count again with a drop; the third had dropped sets before its recording began."""
    first = [status(0, dropped=0), lost(1, dropped=1)]
    second = [lost(2, dropped=1), status(3, dropped=1)]
    third = [status(4, dropped=7), lost(5, dropped=8)]
    assert drops_of([first, second, third, []]) == {"late": 3}


def lost(stamp_ns: int, *, dropped: int) -> SetStatus:
    return replace(status(stamp_ns, dropped=dropped, reason="late"), stage_ms={})


def test_report_is_json_and_markdown(tmp_path: Path) -> None:
    errors = dict.fromkeys(ERROR_NAMES, 0.5)
    metrics = Metrics(
        split="val",
        num_samples=2,
        nds=0.4321,
        mean_ap=0.3,
        tp_errors=errors,
        class_ap=dict.fromkeys(CLASS_NAMES, 0.3),
        class_tp_errors={name: dict(errors) for name in CLASS_NAMES},
    )
    report = ReplayReport(
        bags=("one",),
        bundle="tiny",
        pace="realtime",
        rate=1.0,
        sets_sent=10,
        sets_processed=8,
        drops={"late": 1},
        messages_late_ms=1.0,
        messages_lost=4,
        samples=2,
        samples_unanswered=1,
        latency_ms=latencies([status(START_NS)], []),
        metrics=None,
    )
    write_report(report, tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert (content["sets_lost"], content["metrics"]) == (2, None)
    assert content["latency_ms"]["decode"]["p95"] == 5.0
    text = (tmp_path / "report.md").read_text()
    assert "| sets lost | 2 |" in text
    assert "| dropped: late | 1 |" in text
    assert "| decode | 5.0 | 5.0 | 5.0 | 5.0 | 1 |" in text
    assert "NDS" not in text
    write_report(replace(report, metrics=metrics), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["metrics"]["nds"] == 0.4321
    assert "| NDS | 0.4321 |" in (tmp_path / "report.md").read_text()


def test_recorded_detections_equal_offline_ones() -> None:
    """The message is wide enough: what is scored live is what the model said."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.randn(20, 9, generator=generator)
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.5
    boxes[:, 6] = boxes[:, 6].clamp(-3, 3)
    found = detections_of(array(START_NS, boxes.tolist()))
    assert isinstance(found, Detections)
    torch.testing.assert_close(found.boxes, boxes, rtol=0, atol=1e-6)

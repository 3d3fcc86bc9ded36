"""A recording of a vehicle that we know nothing of: the doctor reads it, suggests its topics, and replay plays it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_bags import OURS_ALONE, looped, mounting_of, rewritten, scene_of, with_bytes

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.interface.topic_file import read_topic_map
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from training.bag.read_bag import read_bag
from training.bag.recording import read_recording
from training.bag.write_bag import write_scene
from training.cli.commands import main
from training.replay.config import ReplayConfig
from training.replay.run import run_replay

pytestmark = pytest.mark.ros

YAWS = {"FRONT": 0.0, "FRONT_LEFT": 60.0, "FRONT_RIGHT": -60.0, "REAR_LEFT": 140.0, "REAR_RIGHT": -140.0}
CAMERAS = tuple(YAWS)
THEIRS = dict(zip(CAMERAS, ("wide", "p1", "p2", "s1", "s2"), strict=True))  # names that say nothing about directions
SIZES = {"FRONT": (96, 160), "FRONT_LEFT": (120, 160), "FRONT_RIGHT": (120, 160)}
NUM_SETS = 6


def five_camera_bundle(path: Path) -> Path:
    torch.manual_seed(0)
    config = StudentConfig(
        cameras=CAMERAS,
        grid=BevGrid(rows=16, cols=16),
        image_height=48,
        image_width=80,
        backbone="resnet18",
        backbone_width=8,
        num_levels=2,
        embed_dim=16,
        num_heads=2,
        feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=20,
        temporal=True,
    )
    mountings = [mounting_of(yaw + 4.0, size=(48, 80)) for yaw in YAWS.values()]
    rig = CameraRig(
        names=CAMERAS,
        intrinsics=torch.from_numpy(np.stack([entry.intrinsics for entry in mountings])),  # type: ignore[misc]
        ego_from_camera=torch.from_numpy(np.stack([entry.ego_from_sensor for entry in mountings])),
        image_size=(48, 80),
    )
    save_bundle(path, BevFormer(config), name="five", version="1", rig=rig, provenance={})
    return path


def in_base_footprint(topic: str, content: Any) -> Any:
    for entry in getattr(content, "transforms", []):
        entry.header.frame_id = entry.header.frame_id.replace("base_link", "base_footprint")
        entry.child_frame_id = entry.child_frame_id.replace("base_link", "base_footprint")
    if hasattr(content, "child_frame_id"):
        content.child_frame_id = "base_footprint"
    return content


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return five_camera_bundle(tmp_path_factory.mktemp("bundle") / "five")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Received 5 to 40 ms late, topics in any order, packed messages, two sizes, poses at 10 Hz, and no key frames."""
    folder = tmp_path_factory.mktemp("recording")
    scene = scene_of(folder, YAWS, num_frames=NUM_SETS, sizes=SIZES, period_ns=400_000_000, pose_period_ns=100_000_000)
    names = {
        f"/{camera}/image_rect_compressed": f"/sensors/{name}/image_rect/compressed" for camera, name in THEIRS.items()
    }
    names |= {f"/{camera}/camera_info": f"/sensors/{name}/camera_info" for camera, name in THEIRS.items()}
    return rewritten(
        write_scene(scene, folder / "ours", progress=False),
        folder / "theirs",
        late_ms=(5.0, 40.0),
        rename={**names, "/odom": "/vehicle/odometry"},
        change=in_base_footprint,
        compressed=True,
    )


def replay_config(bundle: Path, output: Path, bag: Path, **changes: Any) -> ReplayConfig:
    """All images of a bag, live in steps unless `changes` say otherwise."""
    usual = {"frames": "all", "pace": "step", "device": "cpu", "progress": False}
    parameters = {"num_threads": 1, "decode_threads": 2}
    return ReplayConfig(bundle=bundle, output=output, bags=(bag,), parameters=parameters, **(usual | changes))


def test_what_the_doctor_suggests_replays_whole(
    bundle: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suggested = tmp_path / "topics.yaml"
    doctor = ["doctor", f"--bag={recording}", f"--bundle={bundle}", f"--suggest={suggested}"]
    assert main(doctor) == 0, capsys.readouterr()
    text = capsys.readouterr().out
    assert "cameras by their direction: FRONT is /sensors/wide/image_rect/compressed" in text
    assert "base_frame is base_footprint" in text
    assert "/sensors/p1/image_rect/compressed, 2.5 Hz, 160x120 jpeg" in text
    assert "odometry: /vehicle/odometry, 10 Hz, map <- base_footprint" in text
    assert "no /nuscenes/sample: play it with frames: all" in text
    topics = read_topic_map(suggested)
    assert topics.image_topic("REAR_RIGHT") == "/sensors/s2/image_rect/compressed"
    assert (topics.base_frame, topics.images_rectified) == ("base_footprint", True)
    report = run_replay(replay_config(bundle, tmp_path / "out", recording, layout=str(suggested)))
    assert (report.sets_sent, report.sets_processed, report.drops) == (NUM_SETS, NUM_SETS, {})


def test_in_steps_a_set_that_lacks_an_image_is_not_waited_for_in_vain(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One image is lost, two are cut off, one of them of the reference, and a damaged pose is no matter."""
    period_ns = 150_000_000
    scene = scene_of(tmp_path, YAWS, num_frames=9, sizes=SIZES, period_ns=period_ns, pose_period_ns=period_ns)
    whole = write_scene(scene, tmp_path / "whole", progress=False)
    cuts = {"/REAR_LEFT/image_rect_compressed": 3, "/FRONT_RIGHT/image_rect_compressed": 6, "/odom": 4}
    cuts["/FRONT/image_rect_compressed"] = 8
    seen: Counter[str] = Counter()

    def cut(topic: str, data: bytes) -> bytes | None:
        seen[topic] += 1
        if topic in OURS_ALONE or (topic.startswith("/REAR_LEFT/image") and seen[topic] == cuts[topic]):
            return None
        return data[: len(data) // 2] if seen[topic] == cuts.get(topic) else data

    bag = with_bytes(whole, tmp_path / "lossy", cut)
    live = replay_config(bundle, tmp_path / "live", bag, answer_timeout_s=200.0)  # the test itself would be too late
    offline = replay_config(bundle, tmp_path / "offline", bag, mode="offline", pace="realtime")
    for config in (live, offline):
        caplog.clear()
        report = run_replay(config)
        missing = {f"missing {camera}": 1 for camera in ("REAR_LEFT", "FRONT_RIGHT", "FRONT")}
        assert report.drops == missing
        assert (report.sets_sent, report.sets_processed, report.messages_lost) == (8, 6, 3)
        assert caplog.text.count("are damaged and skipped") == 3


@pytest.mark.slow
def test_in_steps_an_image_may_come_later_than_the_next_set(bundle: Path, tmp_path: Path) -> None:
    period_ns = 100_000_000
    scene = scene_of(tmp_path, YAWS, num_frames=5, sizes=SIZES, period_ns=period_ns, pose_period_ns=period_ns)
    ours = write_scene(scene, tmp_path / "ours", progress=False)
    late = {"/REAR_LEFT/image_rect_compressed": (120.0, 125.0)}
    bag = rewritten(ours, tmp_path / "late", late_ms=late)
    report = run_replay(replay_config(bundle, tmp_path / "out", bag, answer_timeout_s=200.0))
    assert (report.sets_sent, report.sets_processed, report.drops) == (5, 5, {})


@pytest.mark.parametrize("mode", ["offline", pytest.param("live", marks=pytest.mark.slow)])
def test_stamps_that_cannot_be_right_cost_their_sets_alone(bundle: Path, tmp_path: Path, mode: str) -> None:
    """Of nine reference images one has a negative stamp, and one that of a year later."""
    period_ns = 150_000_000
    scene = scene_of(tmp_path, YAWS, num_frames=9, sizes=SIZES, period_ns=period_ns, pose_period_ns=period_ns)
    number = iter(range(9))

    def stamped(topic: str, content: Any) -> Any:
        if topic == "/FRONT/image_rect_compressed":
            content.header.stamp.sec = {3: -5, 6: content.header.stamp.sec + 2**25}.get(
                next(number), content.header.stamp.sec
            )
        return content

    ours = write_scene(scene, tmp_path / "ours", progress=False)
    bag = rewritten(ours, tmp_path / "stamped", change=stamped)
    pace = "step" if mode == "live" else "realtime"
    report = run_replay(replay_config(bundle, tmp_path / mode, bag, mode=mode, pace=pace))
    assert (report.sets_sent, report.sets_processed) == (9, 7)
    assert len(read_recording(tmp_path / mode / "detections" / "stamped").detections) == 7


def test_a_recording_with_the_same_stamps_twice_counts_its_sets_twice(bundle: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, YAWS, num_frames=5, sizes=SIZES)
    ours = rewritten(write_scene(scene, tmp_path / "ours", progress=False), tmp_path / "once")
    bag = looped(ours, tmp_path / "twice", by_ns=4_000_000_000)
    report = run_replay(replay_config(bundle, tmp_path / "out", bag, mode="offline", pace="realtime"))
    assert (report.sets_sent, report.sets_processed, report.drops) == (10, 10, {})


def test_a_suggestion_does_not_replace_a_file(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("x")
    assert main(["doctor", f"--bag={recording}", f"--suggest={tmp_path / 'mine.yaml'}"]) == 1
    assert "mine.yaml exists already" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "x"
    assert main(["doctor", f"--suggest={tmp_path / 'new.yaml'}"]) == 2
    assert "suggest writes the topic map of a recording; give bag" in capsys.readouterr().err


def test_without_a_model_cameras_keep_their_names(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", f"--bag={recording}", f"--suggest={tmp_path / 'topics.yaml'}", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["topic_map"] == str(tmp_path / "topics.yaml")
    assert "no bundle is given" in report["sections"]["replay"][1]["message"]
    assert set(read_topic_map(tmp_path / "topics.yaml").cameras) == set(THEIRS.values())


def test_what_a_recording_lacks_is_named(
    bundle: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lossy(topic: str, content: Any) -> Any:
        content.header.stamp.sec += 37 if topic == "/sensors/p2/image_rect/compressed" else 0  # TAI
        return content

    def lacking(topic: str, content: Any) -> Any:
        return lossy(topic, content) if hasattr(content, "header") else content

    path = rewritten(
        recording, tmp_path / "bag", change=lacking, drop=("/sensors/s1/camera_info", "/vehicle/odometry", "/tf")
    )
    assert read_bag(path).counts["/sensors/s1/image_rect/compressed"] == NUM_SETS
    topics = tmp_path / "topics.yaml"
    cameras = "".join(
        f"  {camera}: {{image: /sensors/{name}/image_rect/compressed, camera_info: /sensors/{name}/camera_info}}\n"
        for camera, name in THEIRS.items()
    )
    topics.write_text(f"odometry: null\nbase_frame: base_footprint\ncameras:\n{cameras}")
    assert main(["doctor", f"--bag={path}", f"--bundle={bundle}", f"--topics={topics}"]) == 1
    text = capsys.readouterr().out
    assert "the recording lacks /sensors/s1/camera_info" in text
    assert (
        "no calibration of REAR_LEFT: /sensors/s1/camera_info is missing or empty; give the parameters rig_file" in text
    )
    assert "the cameras have no images of the same time" in text
    assert "none, and nothing moves on tf" in text

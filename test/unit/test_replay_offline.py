"""Replay without ROS: the same detections as direct evaluation, the same each time, and every drop with its reason."""

import json
import subprocess
import sys
import threading
from collections.abc import Generator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from foreign_bags import OURS_ALONE, rewritten, scene_of
from tiny_student import tiny_config

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.interface.topics import LAYOUTS
from bevdistill_ros.model.bevformer import BevFormer
from training.bag import messages
from training.bag.read_bag import BagError, read_bag
from training.bag.recording import read_recording
from training.bag.write_bag import write_scene
from training.data.index.load import DataConfig, load_index
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import training_rig
from training.replay.ahead import ahead
from training.replay.config import ReplayConfig
from training.replay.report import ReplayReport
from training.replay.run import run_replay

ROOT = Path(__file__).parents[2]
BACK = "/CAM_BACK/image_rect_compressed"
YAWS = {"CAM_FRONT": 0.0, "CAM_BACK": 180.0}


@pytest.fixture(scope="module")
def data(tiny_world: Any, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A drive of three key frames at 10 m/s and a standing vehicle; the rear camera fires 30 ms after the front."""
    world = type(tiny_world)(tmp_path_factory.mktemp("whole") / "world", front_delay=0.0, is_whole=True, start=1.0)
    world.write()
    return DataConfig(
        root=world.root, version=world.version, train_split="tiny_val", val_split="tiny_val", num_sweeps=0
    )


@pytest.fixture(scope="module")
def bundle(data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporal student with random weights, so that a wrong pose or memory shows in its boxes."""
    return bundle_of(tmp_path_factory.mktemp("bundle") / "tiny", data, cameras=("CAM_FRONT", "CAM_BACK"))


def bundle_of(path: Path, data: DataConfig, **changes: Any) -> Path:
    torch.manual_seed(0)
    size = {"image_height": 32, "image_width": 64, "first_stride": 16, "embed_dim": 16}
    config = tiny_config(grid=BevGrid(rows=16, cols=16), num_queries=20, temporal=True, **size, **changes)
    rig = training_rig(load_index(data), data.val_split, config)
    save_bundle(path, BevFormer(config), name="tiny", version="1", rig=rig, provenance={})
    return path


def config_of(bundle: Path, output: Path, **changes: Any) -> ReplayConfig:
    parameters = {"engine": "torch", "num_threads": 1, **changes.pop("parameters", {})}
    return ReplayConfig(
        bundle=bundle, output=output, mode="offline", device="cpu", parameters=parameters, progress=False, **changes
    )


def boxes_of(path: Path) -> dict[str, np.ndarray]:
    """By sample: rows of class, score, centre, size, rotation and velocity, by falling score."""
    results = json.loads(path.read_text())["results"]
    return {
        token: np.array(
            [
                [hash(box["detection_name"]) % 997, box["detection_score"]]
                + box["translation"]
                + box["size"]
                + box["rotation"]
                + box["velocity"]
                for box in boxes
            ]
        )
        for token, boxes in results.items()
    }


@pytest.fixture(scope="module")
def replayed(bundle: Path, data: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReplayReport]:
    output = tmp_path_factory.mktemp("replay") / "out"
    return output, run_replay(config_of(bundle, output, root=data.root, version=data.version, split="tiny_val"))


def test_offline_replay_equals_direct_evaluation(
    bundle: Path, data: DataConfig, replayed: tuple[Path, ReplayReport], tmp_path: Path
) -> None:
    output, report = replayed
    direct = evaluate(
        EvaluateConfig(source=str(bundle), data=data, output=str(tmp_path), device="cpu", num_workers=0, progress=False)
    )
    assert report.metrics is not None
    assert abs(report.metrics.nds - direct.nds) <= 1e-3
    assert (report.sets_sent, report.sets_processed, report.drops) == (4, 4, {})
    found, expected = boxes_of(output / "evaluation/results.json"), boxes_of(tmp_path / "results.json")
    assert set(found) == set(expected)
    for token, rows in expected.items():
        assert len(rows) > 100
        # Scores that all but tie may change places, so each box is held against the nearest.
        nearest = np.abs(found[token][:, None] - rows[None]).max(axis=2).argmin(axis=0)
        np.testing.assert_allclose(found[token][nearest], rows, rtol=0, atol=1e-4)


def test_each_run_gives_the_same(bundle: Path, replayed: tuple[Path, ReplayReport], tmp_path: Path) -> None:
    output, _ = replayed
    bags = tuple(sorted((output / "bags").iterdir()))
    run_replay(config_of(bundle, tmp_path / "again", bags=bags))
    for bag in bags:
        before = read_recording(output / "detections" / bag.name).detections
        after = read_recording(tmp_path / "again/detections" / bag.name).detections
        assert list(before) == list(after)
        for stamp_ns, found in before.items():
            assert torch.equal(found.boxes, after[stamp_ns].boxes)
            assert torch.equal(found.scores, after[stamp_ns].scores)


def test_the_report_says_how_long_each_stage_took(replayed: tuple[Path, ReplayReport]) -> None:
    output, report = replayed
    stages = ("transport_age", "wait", "decode", "preprocess", "inference", "postprocess", "publish")
    assert set(stages) < set(report.latency_ms)
    assert report.throughput is not None
    assert 0 < report.throughput.engine_s < report.throughput.wall_s
    written = json.loads((output / "report.json").read_text())
    assert written["pace"] == "offline"
    assert report.metrics is not None
    assert written["whole"]["nds"] == report.metrics.nds
    assert [moment["stages"].keys() >= {"decode", "inference"} for moment in written["timing"]["timeline"]] == [
        True
    ] * 4
    assert (written["timing"]["sets_sent"], written["latency_aware"]["published"]) == (4, "status")
    assert (output / written["results"]).is_file()
    text = (output / "report.md").read_text()
    assert "sets/s; in the engine" in text
    assert "| spread of the images | 30.0 | 30.0 | 30.0 | 30.0 | 4 |" in text
    statuses = [status for name in report.bags for status in read_recording(output / "detections" / name).statuses]
    assert [status.sets_processed for status in statuses] == [1, 2, 3, 4]
    # The rear camera fires 30 ms after the reference.
    assert all(status.stage_ms["wait"] == pytest.approx(30.0, abs=0.01) for status in statuses)
    assert all(status.latency_ms == pytest.approx(sum(status.stage_ms.values())) for status in statuses)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    scene = scene_of(folder, YAWS, num_frames=4)
    return write_scene(scene, folder / "bag", progress=False)


def without(topic: str, number: int) -> Any:
    """Leaves out a message of a topic."""
    counts = count()
    return lambda name, content: None if name == topic and next(counts) == number else content


def damaged(topic: str, numbers: range) -> Any:
    """Cuts off messages of a topic."""
    counts = count()

    def change(name: str, content: Any) -> Any:
        if name == topic and next(counts) in numbers:
            content.data = content.data[:40]
        return content

    return change


def test_a_missing_image_is_a_drop_with_its_reason(bundle: Path, bag: Path, tmp_path: Path) -> None:
    change = without(BACK, 1)
    path = rewritten(bag, tmp_path / "bag", change=change, drop=())
    report = run_replay(config_of(bundle, tmp_path / "out", bags=(path,), frames="all"))
    assert (report.sets_sent, report.sets_processed) == (4, 3)
    assert report.drops == {"missing CAM_BACK": 1}
    lost = [status for status in read_recording(tmp_path / "out/detections/bag").statuses if not status.stage_ms]
    assert [status.drop_reason for status in lost] == ["missing CAM_BACK"]
    blank = config_of(bundle, tmp_path / "blank", bags=(path,), frames="all", parameters={"missing_camera": "blank"})
    assert run_replay(blank).sets_processed == 4


def test_a_damaged_image_is_a_drop_and_a_fault(bundle: Path, bag: Path, tmp_path: Path) -> None:
    path = rewritten(bag, tmp_path / "bag", change=damaged(BACK, range(2, 3)), drop=())
    report = run_replay(config_of(bundle, tmp_path / "out", bags=(path,), frames="all"))
    assert report.drops == {"unusable CAM_BACK": 1}
    assert [fault.partition(":")[0] for fault in report.faults] == ["CAM_BACK"]


def test_poses_that_come_after_the_images_are_waited_for(bundle: Path, bag: Path, tmp_path: Path) -> None:
    """30 ms late they are used; 200 ms late the set goes without, as in the node."""
    found = {}
    for late_ms in (0.0, 30.0, 200.0):
        path = rewritten(bag, tmp_path / f"bag{late_ms:.0f}", late_ms={"/odom": (late_ms, late_ms)}, drop=())
        run_replay(config_of(bundle, tmp_path / f"out{late_ms:.0f}", bags=(path,), frames="all"))
        found[late_ms] = read_recording(tmp_path / f"out{late_ms:.0f}/detections/bag{late_ms:.0f}").detections
    for stamp_ns, on_time in found[0.0].items():
        assert torch.equal(found[30.0][stamp_ns].boxes, on_time.boxes)
    last = max(found[0.0])
    assert not torch.equal(found[200.0][last].boxes, found[0.0][last].boxes)


def test_bags_without_any_usable_set_are_told(bundle: Path, bag: Path, tmp_path: Path) -> None:
    path = rewritten(bag, tmp_path / "bag", change=damaged(BACK, range(99)), drop=())
    with pytest.raises(BagError, match=r"nothing could be detected in .*bag: unusable CAM_BACK \(4 sets\); CAM_BACK: "):
        run_replay(config_of(bundle, tmp_path / "out", bags=(path,), frames="all"))
    assert not (tmp_path / "out/detections").exists() or not any((tmp_path / "out/detections").iterdir())


def test_pictures_are_drawn_on_request(bundle: Path, bag: Path, tmp_path: Path) -> None:
    run_replay(config_of(bundle, tmp_path / "out", bags=(bag,), frames="all", overlay=True))
    drawn = sorted(int(path.stem) for path in (tmp_path / "out/overlay/bag").iterdir())
    assert drawn == sorted(read_recording(tmp_path / "out/detections/bag").detections)


def test_settings_that_do_not_fit_are_told(bundle: Path, bag: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pace and rate are those of a live replay"):
        config_of(bundle, tmp_path / "out", bags=(bag,), pace="step")
    with pytest.raises(ValueError, match="unknown parameter score_treshold"):
        run_replay(config_of(bundle, tmp_path / "out", bags=(bag,), frames="all", parameters={"score_treshold": 0.1}))
    with pytest.raises(ValueError, match="approximate_time is that of message_filters"):
        run_replay(
            config_of(
                bundle, tmp_path / "out", bags=(bag,), frames="all", parameters={"sync.policy": "approximate_time"}
            )
        )


def test_the_bag_stays_as_it_is(bundle: Path, bag: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in bag.iterdir()}
    run_replay(replace(config_of(bundle, tmp_path / "out", bags=(bag,)), frames="all"))
    assert {path.name: path.read_bytes() for path in bag.iterdir()} == before
    assert read_bag(bag).losses.of(read_bag(bag).topics) == 0


def numbers_up_to(end: int, closed: threading.Event) -> Generator[int, None, None]:
    try:
        yield from range(end)
        raise ValueError("the end")
    finally:
        closed.set()


def test_what_is_made_ahead_comes_in_order_and_its_errors_too() -> None:
    closed = threading.Event()
    made = ahead(numbers_up_to(20, closed), 2)
    assert [next(made) for _ in range(20)] == list(range(20))
    with pytest.raises(ValueError, match="the end"):
        next(made)
    assert closed.is_set()


def test_whoever_stops_early_ends_the_thread() -> None:
    closed = threading.Event()
    made = ahead(numbers_up_to(1000, closed), 2)
    assert next(made) == 0
    made.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]


def as_dataset_bridge_writes(topic: str, content: Any, kept: list[Any]) -> Any:
    """Raw 8UC3 pixels, mountings on /tf beside the motion, leading slashes in frames."""
    if topic == "/tf_static":
        kept[:] = content.transforms
        return None
    if topic == "/tf":
        content.transforms = [*content.transforms, *kept]
        for entry in content.transforms:
            entry.header.frame_id = f"/{entry.header.frame_id.lstrip('/')}"
    if topic.endswith("image_rect_compressed"):
        pixels = cv2.imdecode(np.asarray(content.data), cv2.IMREAD_COLOR)
        rows, cols = pixels.shape[:2]
        return messages.standard_types().types["sensor_msgs/msg/Image"](
            header=content.header, height=rows, width=cols, encoding="8UC3", is_bigendian=0, step=3 * cols,
            data=pixels.ravel(),
        )  # fmt: skip
    return content


def test_a_bag_of_another_tool_gives_the_same_detections(bundle: Path, bag: Path, tmp_path: Path) -> None:
    """Of ros2_dataset_bridge: other topics, raw images, mountings and motion on /tf alone."""
    kept: list[Any] = []
    layout = LAYOUTS["ros2_dataset_bridge"]
    rename = {
        f"/{camera}/{kind}": topic
        for camera in YAWS
        for kind, topic in (
            ("image_rect_compressed", layout.image_topic(camera)),
            ("camera_info", layout.camera_info_topic(camera)),
        )
    }
    path = rewritten(
        bag,
        tmp_path / "theirs",
        rename=rename,
        drop=(*OURS_ALONE, "/odom"),
        change=lambda topic, content: as_dataset_bridge_writes(topic, content, kept),
    )
    run_replay(config_of(bundle, tmp_path / "ours", bags=(bag,), frames="all"))
    report = run_replay(config_of(bundle, tmp_path / "out", bags=(path,), frames="all"))
    assert (report.sets_sent, report.sets_processed) == (4, 4)
    assert "topics: names of the layout ros2_dataset_bridge" in report.notes
    ours = read_recording(tmp_path / "ours/detections/bag").detections
    theirs = read_recording(tmp_path / "out/detections/theirs").detections
    for stamp_ns, expected in ours.items():
        # The bag holds the pixels of the JPEGs, which another decoder rounds otherwise.
        torch.testing.assert_close(theirs[stamp_ns].scores, expected.scores, rtol=0, atol=2e-3)


def test_a_drive_without_known_motion_is_detected_set_by_set(bundle: Path, bag: Path, tmp_path: Path) -> None:
    path = rewritten(bag, tmp_path / "bag", drop=(*OURS_ALONE, "/odom", "/tf"))
    report = run_replay(config_of(bundle, tmp_path / "out", bags=(path,), frames="all"))
    assert report.sets_processed == 4
    with pytest.raises(BagError, match=r"has no motion of base_link for ego_motion\.source odometry"):
        run_replay(
            config_of(
                bundle,
                tmp_path / "named",
                bags=(path,),
                frames="all",
                parameters={"ego_motion.source": "odometry"},
            )
        )


ROS_PACKAGES = (
    *("rclpy", "bevdistill_ros.msg", "ament_index_python", "builtin_interfaces", "cv_bridge", "diagnostic_msgs"),
    *("geometry_msgs", "lifecycle_msgs", "message_filters", "nav_msgs", "rcl_interfaces", "rosgraph_msgs"),
    *("sensor_msgs", "std_msgs", "std_srvs", "tf2_msgs", "tf2_ros", "vision_msgs", "visualization_msgs"),
)
WITHOUT_ROS = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # as where it is not installed
from training.cli.commands import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_no_ros_is_needed(bundle: Path, bag: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_ROS, ",".join(ROS_PACKAGES), "replay", "--bundle", str(bundle)]
    command += ["--output", str(tmp_path / "out"), "--bags", f"[{bag}]", "--frames", "all", "--progress", "false"]
    offline = subprocess.run([*command, "--mode", "offline"], capture_output=True, text=True, cwd=ROOT)
    assert offline.returncode == 0, offline.stderr
    assert "| sets processed | 4 |" in offline.stdout
    live = subprocess.run([*command, "--mode", "live"], capture_output=True, text=True, cwd=ROOT)
    assert live.returncode == 1
    assert "a live replay needs ROS 2" in live.stderr
    assert "or replay with mode offline" in live.stderr


def test_definitions_are_found_without_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ament_index_python.packages", None)
    messages.detector_types.cache_clear()
    assert messages.DETECTIONS_TYPE in messages.detector_types().fielddefs

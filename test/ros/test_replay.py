import json
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from foreign_bags import OURS_ALONE, rewritten
from rosbags.rosbag2 import StoragePlugin
from tiny_student import tiny_config

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import load_bundle, save_bundle
from bevdistill_ros.inference.decode import decode_image
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.frame import frame_from_images
from bevdistill_ros.interface.topics import LAYOUTS, TopicMap
from bevdistill_ros.model.bevformer import BevFormer
from training.bag import messages
from training.bag.read_bag import read_bag
from training.bag.recording import read_recording
from training.bag.rig import rig_of
from training.bag.scene import KeyFrame, Mounting, Scene, SensorFrame
from training.bag.write_bag import write_scene
from training.replay.config import ReplayConfig
from training.replay.run import run_replay

pytestmark = pytest.mark.ros

START_NS = 1_600_000_000_000_000_123
PERIOD_NS = 500_000_000
OFFSETS_NS = dict(zip(NUSCENES_CAMERAS, (-20_000_000, 0, 10_000_000, 40_000_000, 30_000_000, 20_000_000), strict=True))
SIZE = (96, 160)
FRONT_FROM_CAMERA = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
YAWS_DEG = (55, 0, -55, 110, 180, -110)

COUNTER = """
import json, sys, time
from collections import Counter
import rclpy
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface.topics import TopicMap
rclpy.init()
node = rclpy.create_node("bevdistill_detector")
quality = QoSProfile(depth=200, reliability=QoSReliabilityPolicy.BEST_EFFORT)  # as deep as the node's for odometry
counts, stamps = Counter(), []
def count(message, source):
    counts[source] += 1
    stamps.append(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
for source, target in TopicMap().routes(NUSCENES_CAMERAS).items():
    kind = CompressedImage if target.endswith("compressed") else CameraInfo if target.endswith("info") else Odometry
    node.create_subscription(kind, target, lambda m, s=source: count(m, s), quality)
expected, deadline = int(sys.argv[1]), time.time() + 30
while sum(counts.values()) < expected and time.time() < deadline:
    rclpy.spin_once(node, timeout_sec=0.1)
print(json.dumps(counts))
"""


def pose_at(stamp_ns: int) -> np.ndarray:
    """Driving at 8 m/s along global y, far from the origin."""
    pose = np.eye(4)
    pose[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    pose[:3, 3] = [500.0, 700.0 + 8.0 * (stamp_ns - START_NS) * 1e-9, 2.0]
    return pose


def mounting_of(number: int) -> Mounting:
    yaw = np.radians(YAWS_DEG[number])
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    transform = np.eye(4)
    transform[:3, :3] = turn @ FRONT_FROM_CAMERA
    transform[:3, 3] = [1.0, 0.1 * number, 1.6]
    intrinsics = np.array([[90.0, 0.0, 79.5], [0.0, 90.0, 47.5], [0.0, 0.0, 1.0]])
    return Mounting(ego_from_sensor=transform, intrinsics=intrinsics, size=SIZE)


def scene_of(folder: Path, *, num_sets: int, start_ns: int = START_NS, name: str = "drive") -> Scene:
    """Six cameras that fire within 60 ms, every half second; noise images, different in every frame."""
    frames: list[SensorFrame] = []
    key_frames = []
    for index in range(num_sets):
        stamps = {camera: start_ns + index * PERIOD_NS + OFFSETS_NS[camera] for camera in NUSCENES_CAMERAS}
        for number, (camera, stamp_ns) in enumerate(stamps.items()):
            path = folder / f"{name}-{camera}-{index}.jpg"
            noise = np.random.default_rng(10 * index + number).integers(0, 255, (12, 20, 3), dtype=np.uint8)
            cv2.imwrite(str(path), cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
            frames.append(SensorFrame(channel=camera, stamp_ns=stamp_ns, path=path))
        key_frames.append(
            KeyFrame(
                token=f"{name}-{index}",
                stamp_ns=stamps["CAM_FRONT"] + 40_000_000,
                channel_stamps_ns=stamps,
                annotations=(),
            )
        )
    frames.sort(key=lambda frame: frame.stamp_ns)
    pose_stamps = np.array([frame.stamp_ns for frame in frames])
    return Scene(
        name=name,
        frames=tuple(frames),
        mountings={camera: mounting_of(number) for number, camera in enumerate(NUSCENES_CAMERAS)},
        key_frames=tuple(key_frames),
        pose_stamps_ns=pose_stamps,
        global_from_ego=np.stack([pose_at(int(stamp)) for stamp in pose_stamps]),
    )


def tiny_bundle(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = tiny_config(
        grid=BevGrid(rows=16, cols=16),
        image_height=48,
        image_width=80,
        first_stride=16,
        embed_dim=16,
        num_queries=20,
        temporal=True,
    )
    student = BevFormer(config)
    intrinsics = np.stack([mounting_of(number).intrinsics for number in range(6)])
    intrinsics[:, :2] *= 0.5
    rig = CameraRig(
        names=NUSCENES_CAMERAS,
        intrinsics=torch.from_numpy(intrinsics),
        ego_from_camera=torch.from_numpy(np.stack([mounting_of(number).ego_from_sensor for number in range(6)])),
        image_size=(48, 80),
    )
    save_bundle(path, student, name="tiny", version="1", rig=rig, provenance={})
    return path


def detect_offline(scene: Scene, bundle: Path) -> dict[int, Detections]:
    """What the engine says to the same images, without ROS: by the stamp of CAM_FRONT."""
    engine = Engine(load_bundle(bundle), EngineChoice(device="cpu"))
    found = {}
    for key_frame in scene.key_frames:
        stamps = key_frame.channel_stamps_ns
        files = {(frame.channel, frame.stamp_ns): frame.path for frame in scene.frames}
        reference = stamps["CAM_FRONT"]
        carried = [
            np.linalg.inv(pose_at(reference)) @ pose_at(stamps[camera]) @ scene.mountings[camera].ego_from_sensor
            for camera in NUSCENES_CAMERAS
        ]
        images = [
            decode_image(files[camera, stamps[camera]].read_bytes(), nominal_width=SIZE[1], width=80)
            for camera in NUSCENES_CAMERAS
        ]
        frame = frame_from_images(
            images,
            stamp_ns=reference,
            names=NUSCENES_CAMERAS,
            intrinsics=np.stack([mounting_of(number).intrinsics for number in range(6)]),
            sizes=[SIZE] * 6,
            ego_from_camera=np.stack(carried),
            mountings=np.stack([scene.mountings[camera].ego_from_sensor for camera in NUSCENES_CAMERAS]),
            global_from_ego=pose_at(reference),
            target=engine.config.images,
        )
        found[reference] = engine.infer(frame)
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def replay_config(bundle: Path, output: Path, *bags: Path) -> ReplayConfig:
    return ReplayConfig(
        bundle=bundle,
        output=output,
        bags=bags,
        device="cpu",
        parameters={"num_threads": 1, "decode_threads": 2},
        progress=False,
    )


def test_every_message_reaches_another_process(tmp_path: Path) -> None:
    from training.replay.play import play

    bag = read_bag(write_scene(scene_of(tmp_path, num_sets=12), tmp_path / "bag", progress=False))
    expected = {source: bag.counts[source] for source in TopicMap().routes(NUSCENES_CAMERAS)}
    command = [sys.executable, "-c", COUNTER, str(sum(expected.values()))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as counter:
        started = time.perf_counter()
        log = play(bag, layout=TopicMap(), cameras=NUSCENES_CAMERAS, rate=4.0)
        assert time.perf_counter() - started > (bag.end_ns - bag.start_ns) * 1e-9 / 4
        output, _ = counter.communicate(timeout=60)
    assert json.loads(output) == expected == dict(log.counts)


@pytest.mark.parametrize("pace", ["realtime", "step"])
def test_in_steps_time_stands_still_while_the_player_is_stalled(tmp_path: Path, pace: str) -> None:
    from training.replay.order import stream
    from training.replay.play import Player, ros_node

    bag = read_bag(write_scene(scene_of(tmp_path, num_sets=3), tmp_path / "bag", progress=False))
    topics = TopicMap().routes(NUSCENES_CAMERAS)
    stalls = iter([0.7])

    def wait(seconds: float) -> None:
        time.sleep(seconds + next(stalls, 0.0))

    with ros_node("stalled_player") as (node, _):
        player = Player(node, bag.topics, topics)
        gate = (lambda message: True) if pace == "step" else None
        log = player.run(stream(bag, topics, TopicMap(), NUSCENES_CAMERAS), rate=1.0, wait=wait, gate=gate)
    late = sum(late_s > 0.3 for late_s in log.late_s)
    assert late == 1 if pace == "step" else late > 1


def test_key_frames_alone_are_played_on_request(tmp_path: Path) -> None:
    from training.bag.read_bag import samples_of
    from training.replay.order import stream

    scene = scene_of(tmp_path, num_sets=4)
    bag = read_bag(write_scene(replace(scene, key_frames=scene.key_frames[::2]), tmp_path / "bag", progress=False))
    layout = TopicMap()
    topics = layout.routes(NUSCENES_CAMERAS)
    found = list(stream(bag, topics, layout, NUSCENES_CAMERAS, samples_of(bag)))
    images = [message for message in found if message.topic == layout.image_topic("CAM_BACK")]
    assert [message.stamp_ns for message in images] == [
        START_NS + OFFSETS_NS["CAM_BACK"] + index * PERIOD_NS for index in (0, 2)
    ]
    assert sum(message.topic == "/odom" for message in found) == bag.counts["/odom"]
    for place, message in enumerate(found):
        if message.topic == layout.image_topic("CAM_FRONT"):
            before = {(other.topic, other.stamp_ns) for other in found[:place]}
            assert {("/odom", message.stamp_ns), ("/CAM_FRONT/camera_info", message.stamp_ns)} <= before


def test_nobody_there_is_told(tmp_path: Path) -> None:
    from training.replay.play import ReplayError, play

    bag = read_bag(write_scene(scene_of(tmp_path, num_sets=1), tmp_path / "bag", progress=False))
    with pytest.raises(ReplayError, match=r"nobody subscribed to /bevdistill_detector/input/.* within 0\.2 s"):
        play(bag, layout=TopicMap(), cameras=NUSCENES_CAMERAS, timeout_s=0.2)


def test_live_and_offline_replay_equal_the_engine(bundle: Path, tmp_path: Path) -> None:
    """Two scenes, given in the wrong order; the second must not remember the first."""
    first = scene_of(tmp_path, num_sets=5, name="first")
    second = scene_of(tmp_path, num_sets=2, name="second", start_ns=START_NS + 3_100_000_000)
    bags = [write_scene(scene, tmp_path / scene.name, progress=False) for scene in (second, first)]
    report = run_replay(replace(replay_config(bundle, tmp_path / "out", *bags), pace="step", overlay=True))
    last = [max((tmp_path / "out/overlay" / scene.name).iterdir()) for scene in (first, second)]
    stamps_ns = [scene.key_frames[-1].channel_stamps_ns["CAM_FRONT"] for scene in (first, second)]
    assert [path.stem for path in last] == [str(stamp_ns) for stamp_ns in stamps_ns]
    assert all(cv2.imread(str(path)).std() > 1 for path in last)
    assert (report.sets_sent, report.sets_processed, report.drops) == (7, 7, {})
    assert (report.samples, report.samples_unanswered, report.metrics) == (7, 0, None)
    assert report.bags == ("first", "second")
    run_replay(replace(replay_config(bundle, tmp_path / "fast", *bags), mode="offline"))
    for scene, output in product((first, second), ("out", "fast")):
        live = read_recording(tmp_path / output / "detections" / scene.name).detections
        offline = detect_offline(scene, bundle)
        assert list(live) == list(offline)
        for stamp_ns, expected in offline.items():
            found = live[stamp_ns]
            assert len(expected.scores) > 100
            # Without ego motion, its compensation, the reset or the memory the boxes differ by 0.01 m and more.
            torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
            # Scores that all but tie may change places, so each box is held against that of its class and place.
            keys = [torch.cat([entry.boxes, 1e3 * entry.labels[:, None]], dim=1) for entry in (expected, found)]
            nearest = torch.cdist(*keys).argmin(dim=1)
            torch.testing.assert_close(keys[1][nearest], keys[0], rtol=0, atol=1e-4)
    assert {"decode", "inference", "publish", "reference image to answer"} <= set(report.latency_ms)
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["sets_lost"] == 0
    assert "| sets lost | 0 |" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("pace", ["realtime", "step"])
def test_a_bag_of_a_recorder_is_played_whole(bundle: Path, tmp_path: Path, pace: str) -> None:
    """Received 5 to 40 ms after its stamps, by a clock that is a day ahead, some topics later than others."""
    scene = scene_of(tmp_path, num_sets=4)
    ours = write_scene(scene, tmp_path / "ours", progress=False)
    late = {f"/{camera}/image_rect_compressed": (5.0, 40.0) for camera in NUSCENES_CAMERAS[::2]} | {
        "/odom": (5.0, 30.0)
    }
    theirs = rewritten(ours, tmp_path / "theirs", late_ms=late, offset_ns=86_400 * 10**9)
    config = replace(replay_config(bundle, tmp_path / "out", theirs), frames="all", pace=pace)  # type: ignore[arg-type]
    report = run_replay(config)
    assert (report.sets_sent, report.sets_processed, report.drops) == (4, 4, {})
    live = read_recording(tmp_path / "out" / "detections" / "theirs").detections
    assert list(live) == list(detect_offline(scene, bundle))


def as_dataset_bridge_sends(topic: str, content: Any, kept: list[Any]) -> Any:
    """8UC3 pixels, mountings on /tf beside the motion, leading slashes in frames, no odometry."""
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


@pytest.mark.parametrize("name", ["nuscenes2bag", "ros2_dataset_bridge"])
def test_bags_as_other_tools_write_them(bundle: Path, tmp_path: Path, name: str) -> None:
    """nuscenes2bag leaves out the leading slashes and camera_info, the bridge the odometry."""
    scene, layout, kept = scene_of(tmp_path, num_sets=3), LAYOUTS[name], []
    ours = write_scene(scene, tmp_path / "ours", progress=False)
    slash = "" if name == "nuscenes2bag" else "/"
    rename = {
        f"/{camera}/{kind}": slash + topic.lstrip("/")
        for camera in NUSCENES_CAMERAS
        for kind, topic in (
            ("image_rect_compressed", layout.image_topic(camera)),
            ("camera_info", layout.camera_info_topic(camera)),
        )
    }
    infos = [f"/{camera}/camera_info" for camera in NUSCENES_CAMERAS]
    path = rewritten(
        ours,
        tmp_path / "theirs",
        rename=rename,
        drop=(*OURS_ALONE, *(infos if name == "nuscenes2bag" else ["/odom"])),
        change=lambda topic, content: as_dataset_bridge_sends(topic, content, kept),
        storage=StoragePlugin.SQLITE3,
    )
    config = replace(replay_config(bundle, tmp_path / "out", path), frames="all", pace="step")
    if name == "nuscenes2bag":
        rig_file = tmp_path / "rig.yaml"
        rig = rig_of(read_bag(ours), TopicMap(), NUSCENES_CAMERAS)
        rig_file.write_text(yaml.safe_dump(rig.to_dict()))
        config = replace(config, parameters={**config.parameters, "rig_file": str(rig_file), "intrinsics": "rig_file"})
    report = run_replay(config)
    assert (report.sets_sent, report.sets_processed) == (3, 3)
    assert f"topics: names of the layout {name}" in report.notes
    live = read_recording(tmp_path / "out" / "detections" / "theirs").detections
    for stamp_ns, expected in detect_offline(scene, bundle).items():
        # The bag holds the pixels of the JPEGs, which another decoder rounds otherwise.
        torch.testing.assert_close(live[stamp_ns].scores, expected.scores, rtol=0, atol=2e-3)


def test_a_node_that_refuses_to_start_is_told_with_its_reason(bundle: Path, tmp_path: Path) -> None:
    from training.replay.play import ReplayError

    bag = write_scene(scene_of(tmp_path, num_sets=1), tmp_path / "bag", progress=False)
    config = replay_config(bundle, tmp_path / "out", bag)
    config = replace(config, parameters={"device": "cuda:99"})
    started = time.perf_counter()
    with pytest.raises(ReplayError, match=r"(?s)the node refused to start.*cuda:99"):
        run_replay(config)
    assert time.perf_counter() - started < config.start_timeout_s / 2


def test_an_output_folder_in_use_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(ValueError, match="is not empty; choose a new output folder"):
        run_replay(replay_config(bundle, tmp_path / "out", tmp_path / "bag"))


@pytest.fixture
def other_node(tmp_path: Path) -> Iterator[None]:
    """A detector of another bundle that runs under the plain name, as one that a killed replay left did."""
    from training.replay.node_process import NodeProcess
    from training.replay.play import ros_node

    bundle, rig = tiny_bundle(tmp_path / "other", seed=1), tmp_path / "rig.yaml"
    rig.write_text(yaml.safe_dump(load_bundle(bundle).manifest.rig.to_dict()))
    parameters = {
        "bundle": str(bundle),
        "rig_file": str(rig),
        "device": "cpu",
        "cameras": list(NUSCENES_CAMERAS),
        "use_sim_time": True,
        "score_threshold": 0.0,
        "num_threads": 1,
    }
    with ros_node("watcher") as (node, wait), NodeProcess(parameters, tmp_path / "other_node", "/") as process:
        process.wait_until_active(node, wait, 120.0)
        yield


def test_another_node_neither_hears_nor_answers(bundle: Path, tmp_path: Path, other_node: None) -> None:
    from training.replay.play import ReplayError

    scene = scene_of(tmp_path, num_sets=3)
    bag = write_scene(scene, tmp_path / "bag", progress=False)
    config = replace(replay_config(bundle, tmp_path / "out", bag), pace="step")
    report = run_replay(config)
    assert (report.sets_processed, report.sets_lost) == (3, 0)
    live = read_recording(tmp_path / "out" / "detections" / "bag").detections
    for stamp_ns, expected in detect_offline(scene, bundle).items():
        torch.testing.assert_close(live[stamp_ns].scores, expected.scores, rtol=0, atol=1e-6)
    assert "sets_processed" not in (tmp_path / "other_node" / "node.log").read_text()
    with pytest.raises(ReplayError, match=r"another node answers as /bevdistill_detector in ROS_DOMAIN_ID"):
        run_replay(replace(config, namespace="/", output=tmp_path / "plain"))


def test_an_output_that_another_replay_writes_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    from bevdistill_ros.core.lock import locked_folder

    with locked_folder(tmp_path / "out"), pytest.raises(ValueError, match="out is in use by another process"):
        run_replay(replay_config(bundle, tmp_path / "out", tmp_path / "bag"))


def test_a_key_frame_without_a_pose_is_refused_before_the_replay(bundle: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, num_sets=2)
    poses = scene.global_from_ego.copy()
    path = write_scene(scene, tmp_path / "bag", progress=False)
    place = int(np.flatnonzero(scene.pose_stamps_ns == scene.key_frames[1].channel_stamps_ns["CAM_FRONT"])[0])
    moved = poses[place][:3, 3] - poses[0][:3, 3]
    file = next(path.glob("*.mcap"))
    value = struct.pack("<d", np.linalg.inv(poses[0])[:3, :3] @ moved @ np.array([1.0, 0.0, 0.0]))
    content = file.read_bytes()
    assert value in content
    file.write_bytes(content.replace(value, struct.pack("<d", np.nan)))
    with pytest.raises(ValueError, match="sample drive-1 has no odometry at"):
        run_replay(replay_config(bundle, tmp_path / "out", path))
    assert not (tmp_path / "out").exists()

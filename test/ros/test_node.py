"""The real node in a process of its own, with a tiny bundle of random weights, over real middleware."""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
messages = pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, QoSReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from visualization_msgs.msg import MarkerArray  # noqa: E402

from bevdistill_ros.core.grid import BevGrid  # noqa: E402
from bevdistill_ros.core.records import Detections  # noqa: E402
from bevdistill_ros.core.rig import CameraRig  # noqa: E402
from bevdistill_ros.inference.bundle import load_bundle, save_bundle  # noqa: E402
from bevdistill_ros.inference.decode import decode_image  # noqa: E402
from bevdistill_ros.inference.engine import Engine  # noqa: E402
from bevdistill_ros.inference.frame import frame_from_images  # noqa: E402
from bevdistill_ros.model.bevformer import BevFormer  # noqa: E402
from bevdistill_ros.model.config import StudentConfig  # noqa: E402
from bevdistill_ros.node.convert import header_from, stamp_of  # noqa: E402
from bevdistill_ros.node.detector_node import main  # noqa: E402
from bevdistill_ros.node.filters import HAS_MESSAGE_FILTERS  # noqa: E402

CAMERAS = ("LEFT", "FRONT", "RIGHT")
OFFSETS_MS = {"LEFT": -10, "FRONT": 0, "RIGHT": 10}
SIZE = (64, 96)  # height, width [px] of the images
INPUT = (32, 48)  # of the network
TIMEOUT_S = 15.0
MS = 1_000_000
SPEED = 5.0  # [m/s] along x, of the odometry


def tiny_rig(size: tuple[int, int]) -> CameraRig:
    focal = 0.6 * size[1]
    matrix = [[focal, 0.0, size[1] / 2 - 0.5], [0.0, focal, size[0] / 2 - 0.5], [0.0, 0.0, 1.0]]
    mountings = []
    for degrees in (60.0, 0.0, -60.0):
        angle = np.deg2rad(degrees)
        pose = np.eye(4)
        pose[:3, :3] = [[np.sin(angle), 0, np.cos(angle)], [-np.cos(angle), 0, np.sin(angle)], [0, -1, 0]]
        pose[:3, 3] = [1.0, 0.0, 1.5]
        mountings.append(pose)
    return CameraRig(
        names=CAMERAS,
        intrinsics=torch.tensor([matrix] * 3, dtype=torch.float64),
        ego_from_camera=torch.from_numpy(np.stack(mountings)),
        image_size=size,
    )


def write_bundle(path: Path) -> Path:
    torch.manual_seed(0)
    config = StudentConfig(
        grid=BevGrid(rows=8, cols=8),
        cameras=CAMERAS,
        image_height=INPUT[0],
        image_width=INPUT[1],
        backbone="resnet18",
        backbone_width=8,
        backbone_norm="batch",
        first_stride=16,
        num_levels=1,
        embed_dim=16,
        num_heads=2,
        feedforward_dim=16,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=8,
        temporal=True,
    )
    student = BevFormer(config)
    # A fresh student gives every image the same boxes.
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_bundle(path, student, name="tiny", version="1", rig=tiny_rig(INPUT), provenance={})
    return path


class NodeProcess:
    """The node as a child process, with its log."""

    def __init__(self, folder: Path, name: str, **parameters: Any) -> None:
        rig_file = folder / "rig.yaml"
        rig_file.write_text(yaml.safe_dump(tiny_rig(SIZE).to_dict()))
        content = {
            "cameras": list(CAMERAS),
            "rig_file": str(rig_file),
            "device": "cpu",
            "num_threads": 1,
            "score_threshold": 0.0,
            "sync": {"reference_camera": "FRONT", "max_age_ms": 300.0},
            # The machine may be slow; what must not be is waited for.
            "ego_motion": {"max_wait_ms": 1000.0},
            "diagnostics": {"period_s": 0.2, "window_s": 2.0},
            **parameters,
        }
        parameter_file = folder / "node.param.yaml"
        parameter_file.write_text(yaml.safe_dump({name: {"ros__parameters": content}}))
        self.log_path = folder / "node.log"
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "bevdistill_ros.node.detector_node"),
                    *("--ros-args", "--params-file", str(parameter_file), "-r", f"__ns:={name.rpartition('/')[0]}"),
                    *("-r", f"{name}/input/odometry:=/odom"),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self, with_signal: signal.Signals) -> int:
        self._process.send_signal(with_signal)
        try:
            return self._process.wait(TIMEOUT_S)
        finally:
            self._process.kill()


class Vehicle:
    """The other side: drivers of three cameras, odometry, and everything that listens to the node."""

    def __init__(self, name: str, transport: str) -> None:
        self.name = name
        self.node = rclpy.create_node("vehicle", namespace=name.rpartition("/")[0])
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.kind = CompressedImage if transport == "compressed" else Image
        suffix = "/compressed" if transport == "compressed" else ""
        # Best effort, as many camera drivers publish.
        quality = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
        create = self.node.create_publisher
        self.images = {name: create(self.kind, f"{self.name}/input/{name}/image{suffix}", quality) for name in CAMERAS}
        self.infos = {name: create(CameraInfo, f"{self.name}/input/{name}/camera_info", quality) for name in CAMERAS}
        self.odometry = create(Odometry, "/odom", 100)
        self.detections: dict[int, Any] = {}
        self.status: dict[int, Any] = {}
        self.markers: dict[int, Any] = {}
        self.overlay: dict[int, Any] = {}
        self.diagnostics: dict[str, Any] = {}
        self._subscribe(messages.Detection3DArray, "output/detections", self.detections)
        self._subscribe(messages.PipelineStatus, "debug/pipeline_status", self.status)
        self._subscribe(CompressedImage, "output/overlay/compressed", self.overlay)
        self.clients: dict[str, Any] = {}
        self.node.create_subscription(MarkerArray, f"{self.name}/output/markers", self._on_markers, 10)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()

    def _subscribe(self, kind: Any, topic: str, store: dict[int, Any]) -> None:
        self.node.create_subscription(kind, f"{self.name}/{topic}", lambda m: store.update({stamp_of(m): m}), 10)

    def _on_markers(self, message: Any) -> None:
        if message.markers:
            self.markers[stamp_of(message.markers[0])] = message

    def _on_diagnostics(self, message: Any) -> None:
        if not message.status[0].name.startswith(f"{self.name[1:]}: "):
            return
        self.diagnostics = {item.name.partition(": ")[2]: item for item in message.status}

    def wait_until(self, condition: Callable[[], Any], timeout_s: float = TIMEOUT_S) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (result := condition()):
            if time.monotonic() > deadline:
                return None
            self.executor.spin_once(timeout_sec=0.02)
        return result

    def rest(self, seconds: float) -> None:
        self.wait_until(lambda: False, seconds)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        if name not in self.clients:
            self.clients[name] = self.node.create_client(kind, f"{self.name}/{name}")
            assert self.wait_until(self.clients[name].service_is_ready), f"no service {name}"
            # An answer is lost where the node has not seen the client yet, and no interface tells when it has.
            self.rest(1.0)
        future = self.clients[name].call_async(request)
        assert self.wait_until(future.done), f"no answer of {name}"
        return future.result()

    def state(self) -> str:
        return str(self.call(GetState, "get_state", GetState.Request()).current_state.label)

    def change_state(self, transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(self.call(ChangeState, "change_state", request).success)

    def set_parameter(self, name: str, value: float | str) -> Any:
        if isinstance(value, str):
            content = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        else:
            content = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=content)])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def connect(self) -> None:
        """Wait until node and vehicle hear each other, both ways."""
        publishers = [*self.images.values(), *self.infos.values(), self.odometry]
        assert self.wait_until(lambda: all(p.get_subscription_count() for p in publishers)), "nobody listens"
        topics = ("output/detections", "debug/pipeline_status", "output/markers", "output/overlay/compressed")
        assert self.wait_until(lambda: all(self.node.count_publishers(f"{self.name}/{topic}") for topic in topics))
        self.rest(0.5)

    def send_set(self, stamp: int, contents: dict[str, Any], *, matrices: dict[str, Any] | None = None) -> None:
        """Publish odometry, calibration and images of one round; a camera without content is dead."""
        for offset in OFFSETS_MS.values():
            message = Odometry(header=header_from(stamp + offset * MS, "odom"), child_frame_id="base_link")
            message.pose.pose.position.x = position(stamp + offset * MS)
            message.pose.pose.orientation.w = 1.0
            self.odometry.publish(message)
        for name, content in contents.items():
            header = header_from(stamp + OFFSETS_MS[name] * MS, name)
            matrix = (matrices or {}).get(name, tiny_rig(SIZE).intrinsics[0].flatten().tolist())
            info = CameraInfo(header=header, height=SIZE[0], width=SIZE[1], k=matrix, distortion_model="plumb_bob")
            self.infos[name].publish(info)
            content.header = header
            self.images[name].publish(content)

    def detect(self, stamp: int, contents: dict[str, Any], **kwargs: Any) -> Any:
        """Send a round and wait for its detections and status."""
        self.send_set(stamp, contents, **kwargs)
        assert self.wait_until(lambda: stamp in self.detections and stamp in self.status), "no detections"
        return self.detections[stamp]

    def said(self, name: str) -> str:
        """Message of an item of the last /diagnostics."""
        return str(self.diagnostics[name].message) if name in self.diagnostics else ""

    def last_drop(self) -> str:
        """Reason of the last drop, as /diagnostics tells it."""
        return self.said("drops").partition("last: ")[2]


def position(stamp: int) -> float:
    return SPEED * ((stamp // MS) % 1_000_000_000) / 1e3


def picture(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return cv2.resize(noise, SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def jpeg(seed: int) -> CompressedImage:
    return CompressedImage(format="jpeg", data=cv2.imencode(".jpg", picture(seed))[1].tobytes())


def raw(seed: int, encoding: str = "rgb8") -> Image:
    return Image(height=SIZE[0], width=SIZE[1], encoding=encoding, step=3 * SIZE[1], data=picture(seed).tobytes())


def jpegs(seed: int = 0) -> dict[str, Any]:
    return {name: jpeg(seed + place) for place, name in enumerate(CAMERAS)}


def raws(seed: int = 0) -> dict[str, Any]:
    return {name: raw(seed + place) for place, name in enumerate(CAMERAS)}


def offline(bundle: Path, rounds: list[tuple[int, list[np.ndarray | None]]]) -> list[Detections]:
    """What the engine finds in these rounds, one after the other, without any ROS."""
    engine = Engine(load_bundle(bundle), device="cpu")
    rig = tiny_rig(SIZE)
    found = []
    for stamp, images in rounds:
        mountings = rig.ego_from_camera.numpy().copy()
        for mounting, name in zip(mountings, CAMERAS, strict=True):
            mounting[0, 3] += position(stamp + OFFSETS_MS[name] * MS) - position(stamp)
        pose = np.eye(4)
        pose[0, 3] = position(stamp)
        frame = frame_from_images(
            images,
            stamp_ns=stamp,
            names=CAMERAS,
            intrinsics=rig.intrinsics.numpy(),
            sizes=[SIZE] * 3,
            ego_from_camera=mountings,
            global_from_ego=pose,
            height=INPUT[0],
            width=INPUT[1],
        )
        found.append(engine.infer(frame))
    return found


def assert_same(message: Any, detections: Detections) -> None:
    assert len(message.detections) == len(detections.scores) > 0
    for element, box, score in zip(message.detections, detections.boxes, detections.scores, strict=True):
        place = element.pose.position
        assert element.score == pytest.approx(float(score), abs=1e-6)
        found = [place.x, place.y, place.z, element.size.x, element.velocity.x, element.velocity.y]
        np.testing.assert_allclose(found, box[[0, 1, 2, 3, 7, 8]], atol=1e-4)


_stamps = itertools.count(2_000_000_100_000 * MS, 100_000 * MS)


@pytest.fixture(scope="module")
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def skipping(context: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """A node for compressed images that skips sets with missing cameras, and the vehicle around it."""
    name = "/skipping/bevdistill_detector"
    vehicle = Vehicle(name, "compressed")
    process = NodeProcess(tmp_path_factory.mktemp("skip"), name, bundle=str(bundle), transport="compressed")
    try:
        vehicle.connect()
        yield process, vehicle
        assert process.stop(signal.SIGINT) == 0, process.log
        assert "Traceback" not in process.log
    finally:
        process.stop(signal.SIGKILL) if process.is_running() else None
        vehicle.close()


@pytest.fixture(scope="module")
def blanking(context: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any, Path]]:
    """A node for raw images that runs with cameras missing; its bundle comes only after it has been asked for."""
    folder = tmp_path_factory.mktemp("blank")
    name = "/blanking/bevdistill_detector"
    vehicle = Vehicle(name, "raw")
    process = NodeProcess(folder, name, bundle=str(folder / "late"), transport="raw", missing_camera="blank")
    try:
        yield process, vehicle, folder / "late"
        assert process.stop(signal.SIGTERM) == 0, process.log
        assert "Traceback" not in process.log
    finally:
        process.stop(signal.SIGKILL) if process.is_running() else None
        vehicle.close()


@pytest.fixture
def stamp() -> int:
    """Far ahead of all stamps before, so that no test sees the memory of another."""
    return next(_stamps)


def test_detections_are_those_of_the_engine(skipping: Any, bundle: Path, stamp: int) -> None:
    _, vehicle = skipping
    stamps = [stamp + k * 500 * MS for k in range(3)]
    found = [vehicle.detect(at, jpegs(10 * k)) for k, at in enumerate(stamps)]
    rounds = []
    for k, at in enumerate(stamps):
        contents = [bytes(message.data) for message in jpegs(10 * k).values()]
        rounds.append((at, [decode_image(c, nominal_width=SIZE[1], width=INPUT[1]) for c in contents]))
    expected = offline(bundle, rounds)
    for message, detections in zip(found, expected, strict=True):
        assert_same(message, detections)
        assert message.header.frame_id == "base_link"
        assert message.model == "tiny 1"
    # The memory plays its part, else this test would say nothing about it.
    assert (offline(bundle, rounds[1:])[0].scores - expected[1].scores).abs().max() > 1e-5


def test_status_tells_all_stages(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    vehicle.detect(stamp, jpegs())
    status = vehicle.status[stamp]
    assert list(status.cameras) == list(CAMERAS)
    assert list(status.present) == [True] * 3
    assert status.spread_ms == pytest.approx(20.0)
    stages = ["transport_age", "wait", "decode", "preprocess", "inference", "postprocess", "publish"]
    assert list(status.stages) == stages
    assert np.isnan(status.stage_ms[0])  # stamps of another clock have no age
    assert np.isnan(status.latency_ms)
    assert all(value >= 0 for value in status.stage_ms[1:])
    assert status.sets_processed >= 1


def test_latency_is_known_for_stamps_of_this_clock(skipping: Any) -> None:
    _, vehicle = skipping
    now = time.time_ns()
    # The vehicle's next stamps are of another year: the node must take the jump either way.
    vehicle.detect(now, jpegs())
    status = vehicle.status[now]
    assert 0 < status.latency_ms < 20_000
    assert status.latency_ms >= sum(status.stage_ms[1:-1])
    assert status.latency_ms == pytest.approx(max(status.age_ms))


def test_markers_and_overlay(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    message = vehicle.detect(stamp, jpegs())
    assert vehicle.wait_until(lambda: stamp in vehicle.markers and stamp in vehicle.overlay)
    boxes = [marker for marker in vehicle.markers[stamp].markers if marker.ns == "boxes"]
    assert [marker.id for marker in boxes] == list(range(len(message.detections)))
    assert boxes[0].header == message.header
    image = cv2.imdecode(np.frombuffer(vehicle.overlay[stamp].data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert image is not None


def test_dead_camera_is_skipped_and_named(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    contents = jpegs()
    del contents["RIGHT"]
    vehicle.send_set(stamp, contents)
    assert vehicle.wait_until(lambda: vehicle.last_drop() == "missing RIGHT")
    assert stamp not in vehicle.detections
    vehicle.detect(stamp + 500 * MS, jpegs())
    assert vehicle.status[stamp + 500 * MS].drop_reason == "missing RIGHT"


@pytest.mark.parametrize("fault", ["truncated", "empty", "text"])
def test_damaged_image_is_dropped_and_named(skipping: Any, stamp: int, fault: str) -> None:
    process, vehicle = skipping
    contents = jpegs()
    data = bytes(contents["FRONT"].data)
    contents["FRONT"].data = {"truncated": data[: len(data) // 2], "empty": b"", "text": b"hello"}[fault]
    vehicle.detect(stamp - 500 * MS, jpegs())
    vehicle.send_set(stamp, contents)
    assert vehicle.wait_until(lambda: vehicle.last_drop() == "unusable FRONT")
    assert vehicle.wait_until(lambda: "cut off" in vehicle.said("inputs"))
    vehicle.detect(stamp + 500 * MS, jpegs())
    assert vehicle.status[stamp + 500 * MS].sets_dropped == vehicle.status[stamp - 500 * MS].sets_dropped + 1
    assert process.is_running()


def test_calibration_of_nan_is_dropped_and_mended(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    vehicle.send_set(stamp, jpegs(), matrices={"LEFT": [float("nan")] * 9})
    assert vehicle.wait_until(lambda: vehicle.last_drop() == "unusable LEFT")
    assert vehicle.wait_until(lambda: "LEFT: camera matrix is not finite" in vehicle.said("inputs"))
    vehicle.detect(stamp + 500 * MS, jpegs())


def test_stamps_that_go_back_reset_the_memory(skipping: Any, bundle: Path, stamp: int) -> None:
    process, vehicle = skipping
    vehicle.detect(stamp, jpegs(1))
    vehicle.detect(stamp + 500 * MS, jpegs(2))
    back = stamp - 5_000 * MS
    contents = jpegs(3)
    images = [decode_image(bytes(message.data), nominal_width=SIZE[1], width=INPUT[1]) for message in contents.values()]
    message = vehicle.detect(back, contents)
    assert_same(message, offline(bundle, [(back, images)])[0])
    assert "stamps went back" in process.log


def test_reset_service_empties_the_memory(skipping: Any, bundle: Path, stamp: int) -> None:
    _, vehicle = skipping
    vehicle.detect(stamp, jpegs(1))
    assert vehicle.call(Trigger, "reset", Trigger.Request()).success
    contents = jpegs(2)
    images = [decode_image(bytes(message.data), nominal_width=SIZE[1], width=INPUT[1]) for message in contents.values()]
    message = vehicle.detect(stamp + 500 * MS, contents)
    assert_same(message, offline(bundle, [(stamp + 500 * MS, images)])[0])


def test_threshold_changes_while_running(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    scores = [element.score for element in vehicle.detect(stamp, jpegs()).detections]
    assert scores == sorted(scores, reverse=True)
    middle = (scores[2] + scores[3]) / 2
    assert vehicle.set_parameter("score_threshold", middle).successful
    try:
        assert len(vehicle.detect(stamp + 10_000 * MS, jpegs()).detections) == 3
        refused = vehicle.set_parameter("score_threshold", 1.5)
        assert not refused.successful
        assert "score_threshold" in refused.reason
    finally:
        vehicle.set_parameter("score_threshold", 0.0)


def test_other_parameters_do_not_change_while_running(skipping: Any) -> None:
    _, vehicle = skipping
    result = vehicle.set_parameter("transport", "raw")
    assert not result.successful
    assert "clean up" in result.reason


def test_deactivate_and_activate_again(skipping: Any, stamp: int) -> None:
    _, vehicle = skipping
    assert vehicle.change_state(Transition.TRANSITION_DEACTIVATE)
    vehicle.send_set(stamp, jpegs())
    vehicle.rest(0.5)
    assert stamp not in vehicle.detections
    assert vehicle.change_state(Transition.TRANSITION_ACTIVATE)
    vehicle.connect()
    vehicle.detect(stamp + 1000 * MS, jpegs())
    assert vehicle.status[stamp + 1000 * MS].sets_processed == 1


def test_stock_synchronizer_can_be_chosen_where_it_is_installed(skipping: Any, stamp: int) -> None:
    process, vehicle = skipping
    assert vehicle.change_state(Transition.TRANSITION_DEACTIVATE)
    assert vehicle.change_state(Transition.TRANSITION_CLEANUP)
    assert vehicle.set_parameter("sync.policy", "approximate_time").successful
    assert vehicle.change_state(Transition.TRANSITION_CONFIGURE) == HAS_MESSAGE_FILTERS
    if not HAS_MESSAGE_FILTERS:
        assert "cannot configure: sync.policy approximate_time needs the ROS package message_filters" in process.log
        assert vehicle.set_parameter("sync.policy", "anchor").successful
        assert vehicle.change_state(Transition.TRANSITION_CONFIGURE)
    assert vehicle.change_state(Transition.TRANSITION_ACTIVATE)
    vehicle.connect()
    vehicle.detect(stamp, jpegs())
    assert vehicle.status[stamp].spread_ms == pytest.approx(20.0)


def test_missing_bundle_fails_and_can_be_retried(blanking: Any) -> None:
    process, vehicle, bundle = blanking
    assert vehicle.state() == "unconfigured"
    reason = f"cannot configure: there is no bundle folder '{bundle}'"
    assert vehicle.wait_until(lambda: reason in process.log)
    assert vehicle.wait_until(lambda: reason in vehicle.said("lifecycle"))
    assert not vehicle.change_state(Transition.TRANSITION_CONFIGURE)
    assert vehicle.state() == "unconfigured"
    write_bundle(bundle)
    assert vehicle.change_state(Transition.TRANSITION_CONFIGURE)
    assert vehicle.change_state(Transition.TRANSITION_ACTIVATE)
    assert vehicle.state() == "active"
    vehicle.connect()


def test_raw_images(blanking: Any, stamp: int) -> None:
    _, vehicle, bundle = blanking
    message = vehicle.detect(stamp, raws(5))
    assert_same(message, offline(bundle, [(stamp, [picture(5 + place) for place in range(3)])])[0])


def test_dead_camera_is_blank(blanking: Any, stamp: int) -> None:
    _, vehicle, bundle = blanking
    contents = raws(5)
    del contents["RIGHT"]
    message = vehicle.detect(stamp, contents)
    assert list(vehicle.status[stamp].present) == [True, True, False]
    assert np.isnan(vehicle.status[stamp].age_ms[2])
    assert_same(message, offline(bundle, [(stamp, [picture(5), picture(6), None])])[0])
    assert vehicle.wait_until(lambda: "RIGHT" in vehicle.said("cameras"))


def test_wrong_encoding_is_blank_and_named(blanking: Any, stamp: int) -> None:
    _, vehicle, _ = blanking
    # A camera that was dead is waited for from its first image on.
    vehicle.detect(stamp - 500 * MS, raws())
    contents = raws()
    contents["LEFT"].encoding = "yuv422"
    vehicle.detect(stamp, contents)
    assert list(vehicle.status[stamp].present) == [False, True, True]
    assert vehicle.wait_until(lambda: "LEFT: encoding 'yuv422'" in vehicle.said("inputs"))


def test_bad_parameter_ends_the_node_with_one_line(context: None, capfd: pytest.CaptureFixture[str]) -> None:
    rclpy.try_shutdown()
    try:
        with pytest.raises(SystemExit) as ended:
            main(["--ros-args", "-p", "sync.max_spread_ms:=5000.0"])
    finally:
        rclpy.init()
    assert ended.value.code == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "FATAL" in line]
    assert len(lines) == 1
    assert "sync.max_spread_ms must be a number with a decimal point in 0.1...1000" in lines[0]

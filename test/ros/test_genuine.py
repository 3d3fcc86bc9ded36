"""The node with packages of a ROS 2 distribution that are not on PyPI: tf2, vision_msgs, launch, the ros2 command."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Shared
    from rclpy.context import Context

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Transform, TransformStamped
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from tiny_model import CAMERAS, MS, OFFSETS_MS, SIZE, assert_same, decoded, offline, position, tiny_rig
from vehicle import TIMEOUT_S, Vehicle, jpegs

from bevdistill_ros.core.geometry import quaternion_from_matrix
from bevdistill_ros.node.convert import header_from, time_from


def lacks(*packages: str) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


needs_tf = pytest.mark.skipif(bool(lacks("tf2_ros", "tf2_msgs")), reason="tf2_ros comes with a ROS distribution")


class TfPublisher:
    """Publishes the transforms of a vehicle.

    Args:
        vehicle: Has the node.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        from tf2_msgs.msg import TFMessage

        self._message = TFMessage
        self._node = vehicle.node
        latched = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
        self._fixed = self._node.create_publisher(TFMessage, "/tf_static", latched)
        self._moving = self._node.create_publisher(TFMessage, "/tf", 100)
        assert vehicle.wait_until(
            lambda: self._fixed.get_subscription_count() and self._moving.get_subscription_count()
        )
        vehicle.rest(0.5)

    def close(self) -> None:
        for publisher in (self._fixed, self._moving):
            self._node.destroy_publisher(publisher)

    def mount(self) -> None:
        self._fixed.publish(self._message(transforms=[mounting(camera, Time()) for camera in CAMERAS]))

    def mount_at(self, camera: str, frame: str, stamp: int) -> None:
        transform = mounting(camera, time_from(stamp))
        transform.child_frame_id = frame
        self._moving.publish(self._message(transforms=[transform]))

    def move(self, stamp: int) -> None:
        transform = Transform()
        transform.translation.x = position(stamp)
        self._moving.publish(self._message(transforms=[stamped("odom", "base_link", time_from(stamp), transform)]))


def mounting(camera: str, stamp: Time) -> TransformStamped:
    pose = tiny_rig(SIZE).ego_from_camera[CAMERAS.index(camera)].numpy()
    transform = Transform()
    place, turn = transform.translation, transform.rotation
    place.x, place.y, place.z = map(float, pose[:3, 3])
    turn.w, turn.x, turn.y, turn.z = map(float, quaternion_from_matrix(pose[:3, :3]))
    return stamped("base_link", camera, stamp, transform)


def stamped(frame: str, child: str, stamp: Time, transform: Transform) -> TransformStamped:
    message = TransformStamped(child_frame_id=child, transform=transform)
    message.header.frame_id = frame
    message.header.stamp = stamp
    return message


@pytest.fixture
def tf(shared: "Shared") -> Iterator[tuple[Vehicle, TfPublisher]]:
    """A node that takes mountings and ego motion from tf, the vehicle around it, and its transforms."""
    vehicle = shared.use(rig_file="", ego_motion__source="tf")
    publisher = TfPublisher(vehicle)
    yield vehicle, publisher
    publisher.close()


@needs_tf
def test_tf_tells_mountings_and_ego_motion(tf: tuple[Vehicle, TfPublisher], bundle: Path, stamp: int) -> None:
    vehicle, transforms = tf
    transforms.mount()
    rounds = [(stamp + k * 500 * MS, 3 * k) for k in range(3)]
    found = []
    for at, seed in rounds:
        # Poses between the images' stamps: tf interpolates.
        for offset in (-20, 20):
            transforms.move(at + offset * MS)
        vehicle.rest(0.2)
        found.append(vehicle.detect(at, jpegs(seed), moves=False))
    expected = offline(bundle, [(at, [decoded(seed + place) for place in range(3)]) for at, seed in rounds])
    for message, detections in zip(found, expected, strict=True):
        assert_same(message, detections)
    assert vehicle.wait_until(lambda: vehicle.said("ego motion") == "known")


@needs_tf
def test_camera_that_tf_does_not_know_is_named(tf: tuple[Vehicle, TfPublisher], bundle: Path, stamp: int) -> None:
    vehicle, transforms = tf
    transforms.mount()
    frame = f"RIGHT_{stamp}"
    renamed = {"RIGHT": {"header": header_from(stamp, frame)}}
    vehicle.calibrate(stamp)
    vehicle.send_calibration("RIGHT", stamp, **renamed["RIGHT"])
    vehicle.rest(0.5)
    vehicle.send_set(stamp, jpegs(), calibrations=renamed, moves=False)
    assert vehicle.await_drop(stamp) == "unusable RIGHT"
    assert vehicle.wait_until(lambda: f"RIGHT: tf does not know base_link <- {frame}" in vehicle.said("inputs"))

    # A mounting that moves is taken at the image's stamp, also where it is published a little later.
    for at in (stamp, stamp + 400 * MS):
        transforms.mount_at("RIGHT", frame, at)
    later = stamp + 500 * MS
    for offset in OFFSETS_MS.values():
        transforms.move(later + offset * MS)
    vehicle.rest(0.5)
    vehicle.send_set(later, jpegs(4), calibrations=renamed, moves=False)
    vehicle.rest(0.1)
    transforms.mount_at("RIGHT", frame, later + 20 * MS)
    assert vehicle.wait_until(lambda: vehicle.status(later))
    assert vehicle.status(later).stages, vehicle.said("inputs")
    assert vehicle.wait_until(lambda: later in vehicle.detections)
    assert_same(vehicle.detections[later], offline(bundle, [(later, [decoded(4 + place) for place in range(3)])])[0])
    vehicle.calibrate(later)


@needs_tf
def test_tf_whose_time_goes_back(tf: tuple[Vehicle, TfPublisher], bundle: Path, stamp: int) -> None:
    vehicle, transforms = tf
    transforms.mount()
    back = stamp - 20_000 * MS
    for at in (stamp, back, back + 500 * MS):
        for offset in (-20, 20):
            transforms.move(at + offset * MS)
        vehicle.rest(0.2)
        vehicle.detect(at, jpegs(7), moves=False)
    images = [decoded(7 + place) for place in range(3)]
    # What tf holds of the time before is thrown away with the first images of the new one, and their poses with it.
    expected = offline(bundle, [(back + 500 * MS, images)])
    assert len(vehicle.detections[back + 500 * MS].detections) == len(expected[0].scores)
    assert vehicle.wait_until(lambda: vehicle.said("calibration") == "all 3 known")


@pytest.mark.skipif(bool(lacks("vision_msgs")), reason="vision_msgs comes with a ROS distribution")
def test_vision_detections_are_the_same(shared: "Shared", stamp: int) -> None:
    from vision_msgs.msg import Detection3DArray

    vehicle = shared.use()
    found: list[Any] = []
    listener = vehicle.node.create_subscription(
        Detection3DArray, f"{vehicle.name}/output/vision_detections", found.append, 10
    )
    vehicle.rest(1.0)
    message = vehicle.detect(stamp, jpegs())
    assert vehicle.wait_until(lambda: found)
    assert found[0].header == message.header
    assert [entry.header for entry in found[0].detections] == [message.header] * len(message.detections)
    assert [entry.results[0].hypothesis.class_id for entry in found[0].detections] == [
        entry.class_name for entry in message.detections
    ]
    assert [entry.bbox.center for entry in found[0].detections] == [entry.pose for entry in message.detections]
    vehicle.node.destroy_subscription(listener)


@pytest.fixture
def launched(vehicle_context: "Context", bundle: Path, tmp_path: Path) -> Iterator[tuple[Vehicle, Path]]:
    """A node that `ros2 launch` started, the vehicle around it, and the log."""
    missing = lacks("launch_ros", "ros2launch", "ros2topic", "ros2param", "ros2lifecycle")
    if missing or shutil.which("ros2") is None:
        pytest.skip(f"{', '.join(missing) or 'ros2'} comes with a ROS distribution")
    rig_file = tmp_path / "rig.yaml"
    rig_file.write_text(yaml.safe_dump(tiny_rig(SIZE).to_dict()))
    given = {"bundle": bundle, "rig_file": rig_file, "cameras": ",".join(CAMERAS), "reference_camera": "FRONT"}
    arguments = [f"{name}:={value}" for name, value in {**given, "namespace": "car", "device": "cpu"}.items()]
    log_path = tmp_path / "launch.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            ["ros2", "launch", "bevdistill_ros", "detector.launch.py", *arguments],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    vehicle = Vehicle("/car/bevdistill_detector", vehicle_context, odometry="/car/bevdistill_detector/input/odometry")
    try:
        if not vehicle.wait_until(lambda: "configured: tiny 1" in log_path.read_text() or process.poll() is not None):
            pytest.fail(log_path.read_text())
        if "was not found in the share directory" in log_path.read_text():
            pytest.skip("the installed package is older than its launch files: make clean, make setup")
        yield vehicle, log_path
        # As Ctrl-C at a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0, log_path.read_text()
        assert "Traceback" not in log_path.read_text()
        assert "process has finished cleanly" in log_path.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        vehicle.close()


def ros2(group: str, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A daemon would outlive the test.
    command = ["ros2", group, verb, "--no-daemon", "--spin-time", "6", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


@pytest.mark.slow
def test_launched_node_answers_to_the_ros2_command(launched: tuple[Vehicle, Path]) -> None:
    vehicle, _ = launched
    vehicle.connect()
    assert ros2("lifecycle", "get", vehicle.name).stdout == "active [3]\n"
    assert ros2("param", "set", vehicle.name, "score_threshold", "0.0").stdout == "Set parameter successful\n"
    refused = ros2("param", "set", vehicle.name, "score_threshold", "1.5")
    assert "out of range" in refused.stdout + refused.stderr
    refused = ros2("param", "set", vehicle.name, "transport", "raw")
    assert "cannot change while the node is configured" in refused.stdout + refused.stderr

    topic = f"{vehicle.name}/output/detections"
    command = ["ros2", "topic", "echo", "--no-daemon", "--spin-time", "6", "--once", topic]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        while echo.poll() is None:
            vehicle.send_set(time.time_ns(), jpegs())
            vehicle.rest(0.2)
        assert echo.stdout is not None
        (message, *_) = yaml.safe_load_all(echo.stdout.read())
    assert message["header"]["frame_id"] == "base_link"
    assert message["model"] == "tiny 1"
    assert message["detections"]

    assert ros2("lifecycle", "set", vehicle.name, "deactivate").stdout == "Transitioning successful\n"
    assert ros2("lifecycle", "get", vehicle.name).stdout == "inactive [2]\n"

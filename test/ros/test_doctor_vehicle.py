"""The doctor beside camera drivers that run in a process of their own, over real middleware."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytestmark = pytest.mark.ros

rclpy = pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from tiny_student import tiny_config

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks.rig import BODY_FROM_OPTICAL
from bevdistill_ros.doctor.config import DoctorConfig
from bevdistill_ros.doctor.examination import Examination
from bevdistill_ros.doctor.finding import Finding, Verdict
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.interface.fast_dds import VARIABLES, our_profile, variable
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.node.detector_node import DetectorNode
from bevdistill_ros.node.quality import input_quality, mismatch

DRIVERS = Path(__file__).with_name("camera_drivers.py")
CAMERAS = ("LEFT", "FRONT", "RIGHT")

Stop = Callable[[], None]
Start = Callable[..., Stop]


def rig() -> CameraRig:
    """The cameras of the drivers, looking to the left, ahead and to the right."""
    poses = []
    for degrees in (60.0, 0.0, -60.0):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        pose = np.eye(4)
        pose[:3, :3] = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ BODY_FROM_OPTICAL
        pose[:3, 3] = [1.0, 0.0, 1.5]
        poses.append(pose)
    matrix = np.array([[100.0, 0.0, 79.5], [0.0, 100.0, 44.5], [0.0, 0.0, 1.0]])
    return CameraRig(
        names=CAMERAS,
        intrinsics=torch.from_numpy(np.stack([matrix] * 3)),
        ego_from_camera=torch.from_numpy(np.stack(poses)),
        image_size=(90, 160),
    )


@pytest.fixture
def rig_file(tmp_path: Path) -> Path:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(rig().to_dict()))
    return path


@pytest.fixture
def drivers() -> Iterator[Start]:
    """Starts the drivers with these words, and gives what stops them."""
    with ExitStack() as stack:

        def start(*words: str) -> Stop:
            process = subprocess.Popen([sys.executable, str(DRIVERS), *words], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"

            def stop() -> None:
                process.send_signal(signal.SIGINT)
                process.wait(30)

            stack.callback(stop)
            return stop

        yield start


def examine(config: DoctorConfig) -> dict[str, dict[str, Finding]]:
    """Findings by section and subject."""
    with Examination(config) as examination:
        sections = [examination.section(name) for name in examination.wanted]
    return {section.name: {finding.subject: finding for finding in section.findings} for section in sections}


def test_a_vehicle_with_faults(drivers: Start, rig_file: Path, tmp_path: Path) -> None:
    """One camera is well, one sends no images, one is not calibrated, and one is not there."""
    drivers("--dead", "FRONT", "--nan", "RIGHT", "--apart", "0.02")
    cameras = (*CAMERAS, "BACK")
    only = ("topics", "node", "rig", "dds")
    picture = tmp_path / "sheet.png"
    found = examine(DoctorConfig(rig=rig_file, cameras=cameras, seconds=2.0, only=only, picture=picture))

    topics = found["topics"]
    assert topics["names"].message == "names of the layout bevdistill, which is published"
    assert topics["LEFT"].verdict is Verdict.OK, topics["LEFT"]
    assert "/LEFT/image_rect_compressed, 12.0 Hz, 160x90 jpeg" in topics["LEFT"].message
    assert topics["LEFT camera_info"].verdict is Verdict.OK
    assert "is published, but no image came" in topics["FRONT"].message
    assert "its camera_info comes, so the images are lost on the way" in topics["FRONT"].remedy
    assert "nobody publishes /BACK/image_rect_compressed" in topics["BACK"].message
    assert "camera matrix is not finite" in topics["RIGHT camera_info"].message
    assert "nobody publishes /BACK/camera_info" in topics["BACK camera_info"].message
    failed = {subject for subject, finding in topics.items() if finding.verdict is Verdict.FAIL}
    assert failed == {"FRONT", "BACK", "RIGHT camera_info", "BACK camera_info"}
    assert topics["spread"].verdict is Verdict.OK
    assert "differ by 40 ms, at most 40 ms" in topics["spread"].message
    assert topics["odometry"].verdict is Verdict.OK
    assert "odom <- base_link" in topics["odometry"].message
    assert "does not run" in found["node"]["detector"].message
    assert found["rig"]["LEFT"].message.startswith("looks 60.0 deg to the left")
    assert "profile" in found["dds"]
    assert picture.is_file()


def test_losses_and_late_stamps(drivers: Start, rig_file: Path) -> None:
    drivers("--keep-back", "0.3", "--late", "2.0", "--no-odometry")
    found = examine(DoctorConfig(rig=rig_file, seconds=3.0, only=("topics",)))["topics"]
    for camera in CAMERAS:
        assert found[camera].verdict is Verdict.FAIL
        assert "its images come late, or are stamped by another clock; lost" in found[camera].message
        assert "camera_info came of images that did not" in found[camera].message
        assert f"export {variable()}={our_profile()}" in found[camera].remedy
    assert found["odometry"].verdict is Verdict.WARN
    assert "nobody publishes /odom" in found["odometry"].message


@pytest.mark.slow
def test_images_of_another_type(drivers: Start, rig_file: Path) -> None:
    drivers("--raw", "--topic", "/{camera}/image_rect_compressed")
    config = DoctorConfig(rig=rig_file, seconds=1.0, only=("topics",))
    finding = examine(config)["topics"]["LEFT"]
    assert finding.verdict is Verdict.FAIL
    assert "is of type sensor_msgs/msg/Image, transport is compressed" in finding.message
    assert "set transport to raw" in finding.remedy
    found = examine(DoctorConfig(rig=rig_file, seconds=1.0, only=("topics",), transport="raw"))
    assert "160x90 rgb8 of 43 kB" in found["topics"]["LEFT"].message


@pytest.mark.slow
def test_simulated_time(drivers: Start, rig_file: Path) -> None:
    """Images of years ago are of now by their own clock."""
    drivers("--late", "1e8", "--clock")
    topics = examine(DoctorConfig(rig=rig_file, seconds=2.0, only=("topics",)))["topics"]
    assert topics["clock"].message == "simulated, from /clock"
    assert topics["FRONT"].verdict is Verdict.OK, topics["FRONT"]


@pytest.mark.slow
def test_bursts_need_the_profile(drivers: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images of 300 kB in one go are more than the default segment; the remedy mends what the doctor sees.

    The doctor runs in a process of its own, as Fast DDS reads its profile once in a process.
    """
    cameras = [f"C{number}" for number in range(6)]
    doctor = [sys.executable, "-m", "bevdistill_ros.doctor.command", "--json", "--only=topics,dds", "--seconds=5"]
    doctor.append(f"--cameras={','.join(cameras)}")
    lossy = {}
    for profile in ("", str(our_profile())):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        if profile:
            monkeypatch.setenv(variable(), profile)
        stop = drivers("--bytes", "300000", "--cameras", *cameras)
        report = json.loads(subprocess.run(doctor, capture_output=True, text=True).stdout)
        stop()
        found = {entry["subject"]: entry for section in report["sections"].values() for entry in section}
        assert (found["profile"]["verdict"] == "ok") == bool(profile)
        lossy[profile] = [found[camera] for camera in cameras if "lost" in found[camera]["message"]]
    assert lossy[str(our_profile())] == []
    assert lossy[""]
    assert all(str(our_profile()) in entry["remedy"] for entry in lossy[""])


def write_bundle(folder: Path) -> Path:
    small = rig()
    config = tiny_config(cameras=CAMERAS)
    scaled = CameraRig(
        names=CAMERAS,
        intrinsics=small.intrinsics * torch.tensor([0.4, 0.4, 1.0], dtype=torch.float64)[:, None],
        ego_from_camera=small.ego_from_camera,
        image_size=(32, 64),
    )
    return save_bundle(folder, BevFormer(config), name="tiny", version="1", rig=scaled, provenance={})


@pytest.fixture
def detector(tmp_path: Path, rig_file: Path) -> Iterator[str]:
    """A detector that runs under another name; the name."""
    values = {
        "bundle": str(write_bundle(tmp_path / "bundle")),
        "rig_file": str(rig_file),
        "cameras": list(CAMERAS),
        "device": "cpu",
        "diagnostics.period_s": 0.3,
    }
    context = rclpy.Context()
    rclpy.init(context=context)
    layout = [f"~/input/{name}/image/compressed:=/{name}/image_rect_compressed" for name in CAMERAS]
    layout += [f"~/input/{name}/camera_info:=/{name}/camera_info" for name in CAMERAS]
    node = DetectorNode(
        context=context,
        namespace="/robot",
        parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        cli_args=["--ros-args", *(word for rule in [*layout, "~/input/odometry:=/odom"] for word in ("-r", rule))],
    )
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.start()
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield "/robot/bevdistill_detector"
    executor.shutdown()
    thread.join(10)
    node.close()
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.slow
def test_beside_the_running_node(drivers: Start, detector: str) -> None:
    """Cameras, bundle, rig and topics are those of the node, without a report said about them."""
    drivers()
    found = examine(DoctorConfig(seconds=3.0, only=("bundle", "topics", "node", "rig")))
    assert found["node"]["detector"].message == f"runs as {detector}"
    assert found["node"]["says lifecycle"].message == "active"
    assert found["node"]["says model"].verdict is Verdict.OK
    assert found["topics"]["names"].message == "names of the layout bevdistill, which the node listens to"
    assert found["topics"]["mountings"].message == "from the rig file, for LEFT, FRONT, RIGHT"
    assert "is tiny 1, loaded" in found["bundle"]["bundle"].message
    assert found["rig"]["training rig"].verdict is Verdict.OK
    assert found["rig"]["RIGHT"].message.startswith("looks 60.0 deg to the right")
    findings = [finding for section in found.values() for finding in section.values()]
    assert not [finding for finding in findings if finding.verdict is Verdict.FAIL]


def test_reliable_listener_of_a_best_effort_camera_is_told() -> None:
    camera = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    reliable = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
    assert "reliab" in mismatch(camera, reliable).lower()
    assert mismatch(camera, input_quality(1)) == mismatch(reliable, input_quality(1)) == ""

"""Bundles that are missing or bad, parameters out of range, transitions without end, and signals at bad moments."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Shared
    from rclpy.context import Context

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from node_process import NodeProcess
from tiny_model import MS, write_bundle
from vehicle import Vehicle, jpegs, raws


@pytest.fixture
def unconfigured(shared: "Shared") -> Iterator["Vehicle"]:
    """The vehicle around a node that waits to be configured."""
    vehicle = shared.use()
    assert vehicle.change_state("deactivate")
    assert vehicle.change_state("cleanup")
    shared.forget()
    yield vehicle
    shared.use()


def assert_refused(vehicle: "Vehicle", reason: str) -> None:
    """Whether the node refuses to be configured, says why, and can be asked again."""
    assert not vehicle.change_state("configure")
    assert vehicle.state() == "unconfigured"
    vehicle.wait_until(lambda: reason in vehicle.said("lifecycle"), 10.0)
    assert reason in vehicle.said("lifecycle")


def test_missing_and_bad_bundles_are_refused_and_can_be_retried(
    unconfigured: "Vehicle", tmp_path: Path, stamp: int
) -> None:
    vehicle, bundle = unconfigured, tmp_path / "late"
    vehicle.set_parameters(bundle="")
    assert_refused(vehicle, "cannot configure: parameter bundle is empty")
    vehicle.set_parameters(bundle=str(bundle))
    assert_refused(vehicle, f"cannot configure: there is no bundle folder '{bundle}'")
    assert vehicle.diagnostics["lifecycle"].level == b"\x02"
    write_bundle(bundle)
    weights = bundle / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100] + bytes(100))
    assert_refused(vehicle, "is damaged or of another bundle")
    weights.write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text("{}")
    assert_refused(vehicle, f"bundle '{bundle}' is refused")
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert vehicle.change_state("configure")
    assert vehicle.change_state("activate")
    vehicle.connect()
    vehicle.detect(stamp, jpegs())
    # What runs has been read, and does not care for its files any more.
    weights.write_bytes(b"")
    vehicle.detect(stamp + 500 * MS, jpegs())


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"cameras": ["LEFT", "FRONT"]}, "names 2, but the bundle takes 3 cameras"),
        ({"cameras": ["LEFT", "FRONT", "TOP"]}, "mixes names of the bundle"),
        ({"cameras": ["A", "B", "C"]}, "sync.reference_camera is 'FRONT'"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not there"),
        ({"device": "quantum"}, "device must be auto, cpu, cuda"),
        ({"engine": "onnx"}, "the bundle has no exported network"),
        ({"rig_file": "/no/rig.yaml"}, "cannot be read"),
        ({"rig_file": "/etc/hostname"}, "holds no rig"),
        ({"temporal__max_gap_s": 0.2}, "temporal.max_gap_s"),
        ({"rig_file": "", "ego_motion__source": "tf"}, ""),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_parameters_that_do_not_fit_are_refused(
    unconfigured: "Vehicle", parameters: dict[str, object], reason: str
) -> None:
    before = {name: unconfigured.parameter(name) for name in parameters}
    assert all(result.successful for result in unconfigured.set_parameters(**parameters))
    try:
        if reason:
            assert_refused(unconfigured, reason)
        elif unconfigured.change_state("configure"):  # where tf2 is installed
            assert unconfigured.change_state("cleanup")
        else:
            assert unconfigured.wait_until(lambda: "tf2_ros" in unconfigured.said("lifecycle"))
    finally:
        unconfigured.set_parameters(**before)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("score_threshold", 1.5, "score_threshold"),
        ("score_threshold", "high", "Wrong parameter type"),
        ("max_detections", 0, "max_detections"),
        ("transport", "jpeg", "must be one of raw, compressed"),
        ("sync__max_spread_ms", -1.0, "max_spread_ms"),
        ("cameras", ["a", ""], "must be a list of names"),
    ],
)
def test_value_out_of_range_is_refused_with_its_reason(
    unconfigured: "Vehicle", name: str, value: object, reason: str
) -> None:
    (result,) = unconfigured.set_parameters(**{name: value})
    assert not result.successful
    assert reason in result.reason


def test_period_of_diagnostics_follows_its_parameter(unconfigured: "Vehicle") -> None:
    unconfigured.set_parameters(diagnostics__period_s=5.0)
    try:
        assert unconfigured.change_state("configure")
        unconfigured.rest(0.5)
        unconfigured.diagnostics.clear()
        unconfigured.rest(1.5)
        assert not unconfigured.diagnostics
        assert unconfigured.change_state("cleanup")
    finally:
        unconfigured.set_parameters(diagnostics__period_s=0.2)


def test_value_out_of_range_in_the_file_ends_the_node_with_one_line(tmp_path: Path) -> None:
    process = NodeProcess(tmp_path, "/refused/bevdistill_detector", score_treshold=0.5, max_detections=0)
    assert process.wait() == 1
    fatal = [line for line in process.log.splitlines() if "FATAL" in line]
    assert len(fatal) == 1
    assert "parameter max_detections must be a whole number in 1...10000" in fatal[0]
    assert "Traceback" not in process.log


@pytest.mark.slow
def test_fifty_cycles_leak_nothing(shared: "Shared", stamp: int) -> None:
    vehicle = shared.use()
    used: list[tuple[int, int, int]] = []
    for cycle in range(60):
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            assert vehicle.change_state(transition)
        vehicle.connect()
        vehicle.detect(stamp + cycle * 500 * MS, jpegs())
        if cycle % 10 == 9:
            used.append(resources(shared.process.pid))
    memory, threads, files = zip(*used, strict=True)
    # The first cycles fill caches of the allocator and of the middleware.
    assert memory[-1] - memory[1] < 8_000, f"resident memory [kB] after every ten cycles: {memory}"
    assert threads[-1] <= threads[0]
    assert files[-1] <= files[0] + 2


def resources(pid: int) -> tuple[int, int, int]:
    """Resident memory [kB], threads and open files of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]), int(status["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_shutdown_under_load(
    vehicle_context: "Context", bundle: Path, tmp_path: Path, with_signal: signal.Signals
) -> None:
    name = f"/load_{with_signal.name.lower()}/bevdistill_detector"
    vehicle = Vehicle(name, vehicle_context)
    vehicle.transport = "raw"
    process = NodeProcess(tmp_path, name, bundle=str(bundle), transport="raw", missing_camera="blank")
    try:
        vehicle.connect()
        vehicle.look()
        start = time.time_ns()
        for number in range(200):
            vehicle.send_set(start + number * 20 * MS, raws(number), calibrations={})
            vehicle.rest(0.005)
            if number == 150:
                process.interrupt(with_signal)
        assert process.wait() == 0, process.log
        assert "Traceback" not in process.log
        assert vehicle.detections
    finally:
        process.kill()
        vehicle.close()


FAILING_SPIN = """
import sys, threading
import bevdistill_ros.node.detector_node as detector_node

def spin(node):
    if sys.argv[1] == "interrupted":
        threading.Timer(0.2, detector_node.rclpy.try_shutdown).start()
    raise RuntimeError("Unable to convert call argument")

detector_node.rclpy.spin = spin
detector_node.main(["node"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("why", "status"), [("interrupted", 0), ("at fault", 1)])
def test_a_signal_may_fail_the_executor_before_it_ends_the_context(why: str, status: int) -> None:
    run = subprocess.run([sys.executable, "-c", FAILING_SPIN, why], capture_output=True, text=True, timeout=60)
    assert run.returncode == status, run.stderr
    assert ("Traceback" in run.stderr) == bool(status)


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [1.0, 2.0, 4.0])
def test_interrupt_while_starting(bundle: Path, tmp_path: Path, after_s: float) -> None:
    process = NodeProcess(tmp_path, "/starting/bevdistill_detector", bundle=str(bundle))
    time.sleep(after_s)
    process.interrupt()
    code = process.wait()
    # Before rclpy takes over, Python ends in its own way.
    assert code in (0, -signal.SIGINT, 1, 130), process.log
    assert "bevdistill_detector" not in process.log or code == 0, process.log

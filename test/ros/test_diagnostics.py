"""What the node says about itself."""

import math
from dataclasses import replace

import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")

from bevdistill_ros.interface.drops import BUSY
from bevdistill_ros.interface.parameters import DiagnosticsParameters
from bevdistill_ros.node.diagnostics import STAGES, Monitor, age_ms, calibration_item, clock_item, model_item
from bevdistill_ros.node.records import Item, Level, Motion, SetReport
from bevdistill_ros.node.rig.calibration_store import NOT_YET

SECOND = 1_000_000_000
START = 1_000 * SECOND
LIMITS = DiagnosticsParameters(
    window_s=5.0,
    warn_rate_hz=8.0,
    error_rate_hz=2.0,
    warn_latency_ms=100.0,
    error_latency_ms=300.0,
    warn_spread_ms=60.0,
    warn_drop_ratio=0.2,
    error_drop_ratio=0.8,
    camera_timeout_s=0.5,
)
REPORT = SetReport(
    stamp_ns=0,
    cameras=("A", "B"),
    present=(True, True),
    age_ms=(30.0, 40.0),
    spread_ms=45.0,
    stage_ms=dict.fromkeys(STAGES, 1.0),
    latency_ms=50.0,
    motion=Motion(is_known=True),
)


def monitor() -> Monitor:
    return Monitor(("A", "B"), LIMITS, started_ns=START)


def run(watch: Monitor, seconds: int, *, rate: int, report: SetReport = REPORT, cameras: str = "AB") -> int:
    """Feed sets and images at a rate [Hz]; returns the time of the last."""
    now = START
    for step in range(1, seconds * rate + 1):
        now = START + step * SECOND // rate
        for camera in cameras:
            watch.image(camera, now)
        watch.processed(report, now)
    return now


def item(watch: Monitor, name: str, now: int) -> Item:
    return next(entry for entry in watch.items(now) if entry.name == name)


def test_all_is_well() -> None:
    watch = monitor()
    now = run(watch, 10, rate=12)
    assert {entry.name: entry.level for entry in watch.items(now)} == {
        "rate": Level.OK,
        "latency": Level.OK,
        "spread": Level.OK,
        "drops": Level.OK,
        "cameras": Level.OK,
        "inputs": Level.OK,
        "ego motion": Level.OK,
    }
    assert item(watch, "rate", now).message in ("12.0 Hz", "12.2 Hz")
    assert item(watch, "latency", now).message == "50 ms"
    assert watch.sets_processed == 120


@pytest.mark.parametrize(("rate", "level"), [(12, Level.OK), (5, Level.WARN), (1, Level.ERROR)])
def test_rate(rate: int, level: Level) -> None:
    watch = monitor()
    assert item(watch, "rate", run(watch, 10, rate=rate)).level is level


def test_rate_of_the_last_seconds_counts() -> None:
    watch = monitor()
    now = run(watch, 10, rate=12)
    assert item(watch, "rate", now + 6 * SECOND).level is Level.ERROR


def test_no_set_at_once_after_the_start_is_no_error_yet() -> None:
    watch = monitor()
    assert item(watch, "rate", START + SECOND).level is Level.WARN
    assert item(watch, "rate", START + 6 * SECOND).level is Level.ERROR
    assert item(watch, "latency", START + SECOND).level is Level.STALE


@pytest.mark.parametrize(("latency", "level"), [(99.0, Level.OK), (101.0, Level.WARN), (301.0, Level.ERROR)])
def test_latency(latency: float, level: Level) -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, report=replace(REPORT, latency_ms=latency))
    found = item(watch, "latency", now)
    assert found.level is level
    assert found.values["latency"].startswith(f"p50 {latency:.1f}")
    assert found.values["decode"] == "p50 1.0, p95 1.0, max 1.0 ms"


def test_stamps_of_another_clock_are_told_not_judged() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, report=replace(REPORT, latency_ms=math.nan))
    found = item(watch, "latency", now)
    assert found.level is Level.OK
    assert "use_sim_time" in found.message


def test_spread() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10)
    watch.processed(replace(REPORT, spread_ms=61.0), now)
    assert item(watch, "spread", now).level is Level.WARN


@pytest.mark.parametrize(("drops", "level"), [(10, Level.OK), (15, Level.WARN), (250, Level.ERROR)])
def test_drops(drops: int, level: Level) -> None:
    watch = monitor()
    now = run(watch, 10, rate=10)
    for _ in range(drops):
        watch.drop("missing A", now)
    for _ in range(1000):
        watch.drop(BUSY, now)
    found = item(watch, "drops", now)
    # A model that is slower than the cameras passes sets over, and that is no fault.
    assert found.level is level
    assert found.message.endswith("sets dropped and 1000 passed over while busy, last: missing A")
    assert found.values["missing A"] == str(drops)
    assert (watch.sets_dropped, watch.last_drop_reason) == (drops + 1000, BUSY)


def test_silent_camera_is_named() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, cameras="A")
    found = item(watch, "cameras", now)
    assert found.level is Level.ERROR
    assert found.message.startswith("no images from B; check that they are published")
    assert found.values["A"].startswith("10.")


def test_blank_camera_is_named() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, report=replace(REPORT, present=(False, True)))
    found = item(watch, "cameras", now)
    assert (found.level, found.message) == (Level.WARN, "sets without A")


def test_fault_is_told_for_a_while_and_counted_for_good() -> None:
    watch = monitor()
    watch.fault("A", "camera matrix is not finite", START)
    found = item(watch, "inputs", START)
    assert (found.level, found.message) == (Level.WARN, "A: camera matrix is not finite")
    later = item(watch, "inputs", START + 10 * SECOND)
    assert later.level is Level.OK
    assert later.values == {"faults of A": "1"}


def test_unknown_motion() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, report=replace(REPORT, motion=Motion(is_known=False)))
    assert item(watch, "ego motion", now).level is Level.WARN


def test_reach_of_memory_and_odometry() -> None:
    watch = monitor()
    late = replace(REPORT, motion=Motion(is_known=True, lag_ms=120.0, memory_s=0.5))
    found = item(watch, "ego motion", run(watch, 6, rate=10, report=late))
    assert found.level is Level.OK
    assert found.message == "extrapolated by up to 120 ms; memory of 0.50 s in 51 of 51 sets"
    assert found.values["memory reaches back [s]"] == "0.50"


def test_odometry_of_another_clock_is_named() -> None:
    watch = monitor()
    foreign = replace(REPORT, motion=Motion(is_known=False, lag_ms=37_000.0))
    message = item(watch, "ego motion", run(watch, 6, rate=10, report=foreign)).message
    assert "the newest pose is 37.0 s older than the images: compare their clocks" in message


def test_clock_that_goes_back_leaves_no_future_behind() -> None:
    watch = monitor()
    run(watch, 6, rate=10)
    watch.drop("missing A", START + SECOND)
    back = START - 500 * SECOND
    assert item(watch, "drops", back).message == "0 of 0 sets dropped"
    # From then on the cameras have as long as at the start.
    assert item(watch, "cameras", back).level is Level.WARN
    assert item(watch, "cameras", back + SECOND).level is Level.ERROR


def test_silent_camera_is_told_with_its_topic() -> None:
    watch = monitor()
    now = run(watch, 6, rate=10, cameras="A")
    sources = {"A": "/a, 1 publisher", "B": "/b, no publishers"}
    (found,) = (entry for entry in watch.items(now, sources) if entry.name == "cameras")
    assert found.message.startswith("no images from B (/b, no publishers); check")
    assert found.values["A"].endswith("images/s from /a, 1 publisher")


def test_calibration_is_wrong_missing_or_foreign() -> None:
    def level_of(unusable: dict[str, str], differences: list[str], *, is_new: bool) -> Level:
        return calibration_item({"A": "100x80"}, unusable, differences, is_new=is_new).level

    assert level_of({}, [], is_new=False) is Level.OK
    assert level_of({}, ["A sees 45 degrees"], is_new=False) is Level.WARN
    assert level_of({"B": NOT_YET}, [], is_new=True) is Level.WARN
    assert level_of({"B": NOT_YET}, [], is_new=False) is Level.ERROR
    assert level_of({"B": "camera is not calibrated"}, [], is_new=True) is Level.ERROR
    found = calibration_item({"A": "100x80"}, {"B": NOT_YET}, [], is_new=False)
    assert found.message == "B: no camera_info yet"
    assert found.values == {"A": "100x80", "B": NOT_YET}


def test_clock_that_nobody_publishes() -> None:
    assert clock_item(simulated=True, now_ns=0).level is Level.ERROR
    assert clock_item(simulated=True, now_ns=5).level is Level.OK
    assert clock_item(simulated=False, now_ns=5).message == "system time"


def test_age() -> None:
    assert age_ms(START, START + 25_000_000) == 25.0
    assert math.isnan(age_ms(START, START + 4000 * SECOND))
    assert math.isnan(age_ms(START, START - 2 * SECOND))


def test_a_refused_engine_is_a_warning() -> None:
    assert model_item("tiny 1, onnx on CPU, fp32", ()).level is Level.OK
    found = model_item("tiny 1, torch on cpu, fp32", ("engine onnx is refused: bev_max 0.3 (allowed 0.01)",))
    assert found.level is Level.WARN
    assert found.message == "tiny 1, torch on cpu, fp32; engine onnx is refused: bev_max 0.3 (allowed 0.01)"

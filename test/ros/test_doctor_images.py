"""The doctor on images, out of records: no graph, no messages."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from bevdistill_ros.doctor.checks.images import Expectation, check_images, check_together
from bevdistill_ros.doctor.finding import Finding, Verdict
from bevdistill_ros.doctor.records import CalibrationRecord, ImageRecord, OdometryRecord, Recording, Topic
from bevdistill_ros.doctor.streams import Stream
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE

MS = 1_000_000
START_MS = 1_700_000_000_000


def stream(offset_s: float = 0.0, *, count: int = 30) -> Stream:
    """Images at 10 Hz that are stamped by a clock that is off by so much."""
    arrivals = tuple((START_MS + 100 * step) * MS for step in range(count))
    return Stream(stamps_ns=tuple(at - 20 * MS + round(offset_s * 1e9) for at in arrivals), arrivals_ns=arrivals)


def record(doubt: str = "", picture: np.ndarray | str | None = None) -> ImageRecord:
    topic = Topic(name="/front", types=(COMPRESSED_IMAGE,))
    shown = np.zeros((4, 6, 3), np.uint8) if picture is None else picture
    return ImageRecord(topic=topic, stream=stream(), kind="jpeg", picture=shown, doubt=doubt)


def examine(image: ImageRecord) -> Finding:
    info = CalibrationRecord(topic=Topic(name="/info"), stream=Stream.empty())
    odometry = OdometryRecord(topic=Topic(name="/odom"), stream=Stream.empty())
    recording = Recording(images={"FRONT": image}, calibrations={"FRONT": info}, odometry=odometry, sim_time=False)
    findings = check_images(recording, Expectation(transport="compressed", max_spread_ms=100.0, runs=False))
    return next(finding for finding in findings if finding.subject == "FRONT")


@pytest.mark.parametrize("offset", [37.0, -5.0])
def test_camera_of_another_clock_is_named(offset: float) -> None:
    findings = check_together({"FRONT": stream(), "LEFT": stream(offset), "RIGHT": stream()}, 100.0)
    clocks = [finding for finding in findings if finding.subject.endswith(" clock")]
    assert [(finding.subject, finding.verdict) for finding in clocks] == [("LEFT clock", Verdict.FAIL)]
    assert (
        f"{abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} those of the other cameras" in clocks[0].message
    )


def test_cameras_of_one_clock() -> None:
    findings = check_together({"FRONT": stream(), "LEFT": stream(-0.04)}, 100.0)
    assert {finding.verdict for finding in findings} == {Verdict.OK}


def test_doubt_of_an_image_is_a_warning() -> None:
    assert examine(record()).verdict is Verdict.OK
    doubted = examine(record(doubt="its colours were dropped"))
    assert doubted.verdict is Verdict.WARN
    assert "its colours were dropped" in doubted.message
    assert examine(record(picture="format '16UC1; png' is not a colour image")).verdict is Verdict.FAIL

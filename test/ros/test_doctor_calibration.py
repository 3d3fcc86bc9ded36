"""The doctor on calibration and mountings, out of records: no graph, no messages."""

import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from sensor_msgs.msg import Image

from bevdistill_ros.doctor.checks.calibration import (
    check_camera_infos,
    check_odometry,
    check_tf_mountings,
    no_mountings,
    straight_pictures,
    views_of_cameras,
)
from bevdistill_ros.doctor.checks.rig import BODY_FROM_OPTICAL
from bevdistill_ros.doctor.finding import Verdict
from bevdistill_ros.doctor.live.recording import Track, image_record
from bevdistill_ros.doctor.records import CalibrationRecord, ImageRecord, OdometryRecord, Recording, Topic
from bevdistill_ros.doctor.streams import Stream
from bevdistill_ros.interface.parameters import EgoMotionParameters
from bevdistill_ros.node.convert import header_from
from bevdistill_ros.node.rig.calibration import Calibration

CALIBRATION = Calibration(matrix=np.diag([50.0, 50.0, 1.0]), size=(40, 60), frame_id="front_optical")
SILENT = Stream(stamps_ns=(), arrivals_ns=())
STREAM = Stream(stamps_ns=(1_000, 2_000, 3_000), arrivals_ns=(1_010, 2_010, 3_010))


def pixels() -> np.ndarray:
    return np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)


def recording(calibration: Calibration | str | None = CALIBRATION, types: tuple[str, ...] = ("a",)) -> Recording:
    info = Topic(name="/front/camera_info", types=types)
    return Recording(
        images={"FRONT": ImageRecord(topic=Topic(name="/front"), stream=STREAM, picture=pixels())},
        calibrations={"FRONT": CalibrationRecord(topic=info, stream=STREAM, calibration=calibration)},
        odometry=OdometryRecord(topic=Topic(name="/odom"), stream=SILENT),
        sim_time=False,
    )


def test_mounting_of_tf() -> None:
    pose = np.eye(4)
    pose[:3, :3] = BODY_FROM_OPTICAL
    pose[:3, 3] = [1.0, 0.0, 1.5]
    (finding,), poses = check_tf_mountings({"FRONT": pose}, {"FRONT": "front_optical"}, base_frame="base_link")
    assert finding.verdict is Verdict.OK
    assert finding.message == "base_link <- front_optical at the image's stamp"
    (view,) = views_of_cameras({"FRONT": CALIBRATION}, poses)
    assert (view.name, view.height, view.yaw) == ("FRONT", 1.5, 0.0)


def test_frame_that_tf_does_not_know() -> None:
    unknown = {"FRONT": "tf does not know base_footprint <- front_optical"}
    (finding,), poses = check_tf_mountings(unknown, {"FRONT": "front_optical"}, base_frame="base_footprint")
    assert poses == {}
    assert finding.verdict is Verdict.FAIL
    assert finding.message == unknown["FRONT"]
    assert "static_transform_publisher base_footprint -> front_optical" in finding.remedy


def test_neither_tf_nor_a_rig() -> None:
    assert no_mountings().verdict is Verdict.FAIL
    assert "neither tf2_ros nor a rig_file" in no_mountings().message


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (recording(None, types=()), "nobody publishes /front/camera_info"),
        (recording(None), "/front/camera_info is published, but none came"),
        (recording("camera is not calibrated"), "camera is not calibrated"),
    ],
)
def test_calibration_that_cannot_be_used(found: Recording, message: str) -> None:
    (finding,), usable = check_camera_infos(found)
    assert (finding.verdict, finding.message, usable) == (Verdict.FAIL, message, {})


def stream(period_ms: int, *, delay_ms: int, first_ms: int = 0, count: int = 50) -> Stream:
    stamps = tuple((first_ms + step * period_ms) * 1_000_000 for step in range(count))
    return Stream(stamps_ns=stamps, arrivals_ns=tuple(stamp + delay_ms * 1_000_000 for stamp in stamps))


@pytest.mark.parametrize(
    ("poses", "verdict", "parts"),
    [
        (stream(10, delay_ms=2, count=900), Verdict.OK, ["/odom, 100 Hz"]),
        (stream(100, delay_ms=1), Verdict.OK, ["images up to", "which is extrapolated (up to 250 ms)"]),
        (stream(20, delay_ms=100, count=300), Verdict.OK, ["images up to 59 ms ahead"]),
        (stream(100, delay_ms=400), Verdict.WARN, ["are further ahead than is extrapolated: no memory for them"]),
        (stream(200, delay_ms=1), Verdict.WARN, ["/odom, 5 Hz"]),
        (stream(20, delay_ms=0, first_ms=-37_000, count=300), Verdict.WARN, ["no memory for them"]),
    ],
    ids=["fast", "10 Hz", "100 ms late", "400 ms late", "5 Hz", "another clock"],
)
def test_how_far_odometry_reaches(poses: Stream, verdict: Verdict, parts: list[str]) -> None:
    topic = Topic(name="/odom", types=("nav_msgs/msg/Odometry",))
    record = OdometryRecord(topic=topic, stream=poses, frames="odom <- base_link")
    images = stream(83, delay_ms=10, first_ms=1000, count=40)
    finding = check_odometry(record, images, EgoMotionParameters())
    assert finding.verdict is verdict, finding
    assert all(part in finding.message for part in parts), finding


def test_pictures_are_straightened() -> None:
    bent = Calibration(
        matrix=CALIBRATION.matrix, size=CALIBRATION.size, distortion=np.array([-0.3, 0.1, 0, 0]), model="plumb_bob"
    )
    straight = straight_pictures(recording(), {"FRONT": CALIBRATION})["FRONT"]
    assert straight.shape == (40, 60, 3)
    assert tuple(straight[0, 1]) == (3, 4, 5)
    assert not np.array_equal(straight_pictures(recording(), {"FRONT": bent})["FRONT"], straight)


def test_damaged_image_gives_no_picture() -> None:
    track = Track(topic=Topic(name="/front"))
    header = header_from(1_000, "front_optical")
    message = Image(header=header, height=40, width=60, encoding="rgb8", step=1, data=pixels().tobytes())
    track.add(message, 1_010)
    record = image_record(track)
    assert isinstance(record.picture, str)
    assert (record.kind, record.frame_id) == ("rgb8", "front_optical")
    damaged = Recording(**{**recording().__dict__, "images": {"FRONT": record}})
    assert straight_pictures(damaged, {"FRONT": CALIBRATION}) == {}

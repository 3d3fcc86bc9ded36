"""Damaged images, bad calibrations and bad odometry, sent to the real node over real middleware."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from conftest import Shared
    from vehicle import Vehicle

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image
from tiny_model import MS, SIZE, assert_same, decoded, jpeg_of, offline, picture
from vehicle import jpegs, raw, raws

from bevdistill_ros.node.convert import header_from

ALL = (SIZE[0] * SIZE[1]) * 3  # bytes of a raw image


def other_shape() -> CompressedImage:
    content = cv2.imencode(".jpg", np.zeros((64, 64, 3), dtype=np.uint8))[1]
    return CompressedImage(format="jpeg", data=content.tobytes())


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (CompressedImage(format="jpeg", data=jpeg_of(1)[:900]), "cut off"),
        (CompressedImage(format="jpeg", data=jpeg_of(1)[:-2]), "cut off"),
        (CompressedImage(format="jpeg", data=b""), "cut off"),
        (CompressedImage(format="jpeg", data=b"hello"), "cut off"),
        (CompressedImage(format="16UC1; compressedDepth", data=jpeg_of(1)), "not a colour image"),
        (other_shape(), "another aspect"),
    ],
    ids=["truncated", "without its end", "empty", "text", "depth", "other shape"],
)
def test_damaged_jpeg_is_dropped_and_named(skipping: "Vehicle", stamp: int, image: Any, expected: str) -> None:
    skipping.detect(stamp - 500 * MS, jpegs())
    skipping.send_set(stamp, {**jpegs(), "FRONT": image})
    assert skipping.await_drop(stamp) == "unusable FRONT"
    assert skipping.wait_until(lambda: expected in skipping.said("inputs"))
    skipping.detect(stamp + 500 * MS, jpegs())
    before, after = (skipping.status(stamp + at * MS) for at in (-500, 500))
    assert after.sets_dropped == before.sets_dropped + 1
    assert after.sets_processed == before.sets_processed + 1


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (raw(1, "nv24"), "encoding 'nv24' is not known to cv_bridge"),
        (raw(1, "rgb16"), "encoding 'rgb16' has more than 8 bits"),
        (Image(encoding="rgb8"), "has no pixels"),
        (Image(height=64, width=96, step=288, encoding="rgb8", data=bytes(100)), "does not fit its 100 bytes"),
        (Image(height=64, width=96, step=0, encoding="rgb8", data=bytes(ALL)), "does not fit"),
        (Image(height=96, width=64, step=192, encoding="rgb8", data=bytes(ALL)), "another aspect"),
    ],
    ids=["unknown", "16 bits", "zero size", "too few bytes", "no step", "other shape"],
)
def test_unusable_raw_image_is_blank_and_named(
    blanking: "Vehicle", bundle: Path, stamp: int, image: Any, expected: str
) -> None:
    blanking.detect(stamp - 50_000 * MS, raws())
    message = blanking.detect(stamp, {**raws(5), "LEFT": image})
    assert list(blanking.status(stamp).present) == [False, True, True]
    assert_same(message, offline(bundle, [(stamp, [None, picture(6), picture(7)])])[0])
    assert blanking.wait_until(lambda: expected in blanking.said("inputs"))


def test_image_of_another_size_is_scaled(blanking: "Vehicle", bundle: Path, stamp: int) -> None:
    half = np.ascontiguousarray(cv2.resize(picture(6), (48, 32), interpolation=cv2.INTER_AREA))
    image = Image(height=32, width=48, step=144, encoding="rgb8", data=half.tobytes())
    message = blanking.detect(stamp, {**raws(5), "FRONT": image})
    assert_same(message, offline(bundle, [(stamp, [picture(5), half, picture(7)])])[0])


def test_all_images_unusable_is_a_drop_even_where_blanks_are_allowed(blanking: "Vehicle", stamp: int) -> None:
    blanking.send_set(stamp, {name: raw(1, "mono16") for name in raws()})
    assert blanking.await_drop(stamp) == "unusable LEFT, FRONT, RIGHT"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"k": [float("nan")] * 9}, "camera matrix is not finite"),
        ({"k": [0.0] * 9}, "camera is not calibrated"),
        ({"d": [float("nan")] * 5}, "lens distortion is not finite"),
        ({"d": [0.1] * 5, "distortion_model": "thin_prism"}, "distortion model is 'thin_prism' with 5 coefficients"),
        ({"height": 0}, "image size must be positive"),
    ],
    ids=["nan", "zeros", "nan lens", "unknown lens", "no size"],
)
def test_bad_calibration_is_dropped_named_and_mended(
    skipping: "Vehicle", stamp: int, fields: dict[str, Any], expected: str
) -> None:
    skipping.send_calibration("LEFT", stamp, **fields)
    assert skipping.wait_until(lambda: expected in skipping.said("calibration"))
    assert skipping.diagnostics["calibration"].level == b"\x02"
    skipping.send_set(stamp, jpegs(), calibrations={"LEFT": fields})
    assert skipping.await_drop(stamp) == "unusable LEFT"
    skipping.calibrate(stamp)
    skipping.detect(stamp + 500 * MS, jpegs())
    assert skipping.wait_until(lambda: skipping.said("calibration") == "all 3 known")


@pytest.mark.parametrize(
    "fields", [{"height": 0, "width": 0}, {"header": header_from(0, "/LEFT")}, {"distortion_model": "radtan"}]
)
def test_calibration_that_is_meant_as_usual_changes_nothing(
    blanking: "Vehicle", bundle: Path, stamp: int, fields: dict[str, Any]
) -> None:
    found = blanking.detect(stamp, raws(4), calibrations={"LEFT": fields})
    assert list(blanking.status(stamp).present) == [True, True, True]
    assert_same(found, offline(bundle, [(stamp, [picture(4 + place) for place in range(3)])])[0])
    blanking.calibrate(stamp)


def test_doubt_of_a_calibration_is_reported_and_used(skipping: "Vehicle", stamp: int) -> None:
    projection = [50.0, 0.0, 47.5, 0.0, 0.0, 50.0, 31.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    skipping.detect(stamp, jpegs(4), calibrations={"LEFT": {"p": projection}})
    assert skipping.wait_until(lambda: "P is another matrix than K" in skipping.said("inputs"))
    skipping.calibrate(stamp)


def test_absent_calibration_is_dropped_and_named(shared: "Shared", bundle: Path, stamp: int) -> None:
    shared.use(sync__max_age_ms=601.0)  # set up again, so that no calibration is known
    vehicle = shared.use()
    for camera, image in jpegs().items():
        vehicle.send_image(camera, stamp, image)
        if camera != "RIGHT":
            vehicle.send_calibration(camera, stamp)
    assert vehicle.await_drop(stamp) == "unusable RIGHT"
    assert vehicle.wait_until(lambda: "RIGHT: no camera_info yet" in vehicle.said("calibration"))
    vehicle.calibrate(stamp)
    message = vehicle.detect(stamp + 500 * MS, jpegs())
    assert_same(message, offline(bundle, [(stamp + 500 * MS, [decoded(place) for place in range(3)])])[0])


def test_a_set_without_odometry_is_detected_by_itself_and_the_past_is_kept(
    skipping: "Vehicle", bundle: Path, stamp: int
) -> None:
    images = [[decoded(seed + place) for place in range(3)] for seed in (1, 4, 7)]
    skipping.detect(stamp, jpegs(1))
    message = skipping.detect(stamp + 500 * MS, jpegs(4), moves=False)
    assert_same(message, offline(bundle, [(stamp + 500 * MS, images[1])], moves=False)[0])
    assert skipping.wait_until(lambda: "without a pose" in skipping.said("ego motion"))
    # With poses again, what was seen before is remembered.
    message = skipping.detect(stamp + 1000 * MS, jpegs(7))
    assert_same(message, offline(bundle, [(stamp, images[0]), (stamp + 1000 * MS, images[2])])[1])


def test_gap_in_odometry_is_not_bridged(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    skipping.send_odometry(stamp - 800 * MS)
    for camera, image in jpegs(4).items():
        skipping.send_calibration(camera, stamp)
        skipping.send_image(camera, stamp, image)
    skipping.send_odometry(stamp + 800 * MS)
    assert skipping.wait_until(lambda: stamp in skipping.detections)
    images = [decoded(4 + place) for place in range(3)]
    assert_same(skipping.detections[stamp], offline(bundle, [(stamp, images)], moves=False)[0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: setattr(m.pose.pose.position, "x", float("nan")), "odometry is not finite"),
        (lambda m: setattr(m.pose.pose.orientation, "w", 0.0), "not a rotation"),
        (lambda m: setattr(m, "child_frame_id", "trailer"), "odometry is that of frame 'trailer'"),
    ],
    ids=["nan", "no rotation", "other frame"],
)
def test_bad_odometry_is_ignored_and_named(
    skipping: "Vehicle", bundle: Path, stamp: int, change: Any, expected: str
) -> None:
    message = Odometry(header=header_from(stamp, "odom"), child_frame_id="base_link")
    message.pose.pose.orientation.w = 1.0
    change(message)
    skipping.send_odometry_message(message)
    found = skipping.detect(stamp, jpegs(4))
    assert_same(found, offline(bundle, [(stamp, [decoded(4 + place) for place in range(3)])])[0])
    assert skipping.wait_until(lambda: expected in skipping.said("inputs"))


def test_pose_jump_forgets(skipping: "Vehicle", bundle: Path, stamp: int) -> None:
    skipping.detect(stamp, jpegs(1))
    later = stamp + 500 * MS
    skipping.shift = 100.0
    message = skipping.detect(later, jpegs(4))
    skipping.shift = 0.0
    assert_same(message, offline(bundle, [(later, [decoded(4 + place) for place in range(3)])])[0])

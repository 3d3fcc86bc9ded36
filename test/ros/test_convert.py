"""Messages to plain data and back."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from bevdistill_ros.core.records import Detections
from bevdistill_ros.node import convert, unpack
from bevdistill_ros.node.markers import shapes_of
from bevdistill_ros.node.records import Item, Level, Motion, SetReport

STAMP = 1_532_402_927_612_460_001
ROWS, COLS = 4, 6


def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (ROWS, COLS, 3), dtype=np.uint8)


def image_message(data: np.ndarray, encoding: str, padding: int = 0) -> Image:
    rows, cols = data.shape[:2]
    flat = data.reshape(rows, -1)
    padded = np.pad(flat, ((0, 0), (0, padding)), constant_values=99)
    return Image(height=rows, width=cols, encoding=encoding, step=padded.shape[1], data=padded.tobytes())


def decoded(message: Any, width: int = COLS) -> np.ndarray:
    return unpack.image_of(message, nominal_width=COLS, width=width)


def info(**fields: Any) -> CameraInfo:
    matrix = [100.0, 0.0, 50.0, 0.0, 110.0, 40.0, 0.0, 0.0, 1.0]
    return CameraInfo(**{"height": 80, "width": 100, "k": matrix, "distortion_model": "plumb_bob", **fields})


def two_detections() -> Detections:
    boxes = [[1, 2, 3, 4, 5, 6, math.pi / 2, 1.5, -2], [7, 8, 9, 0.5, 0.5, 1, 0, 0, 0]]
    return Detections(
        stamp_ns=STAMP,
        boxes=torch.tensor(boxes, dtype=torch.float32),
        scores=torch.tensor([0.75, 0.25]),
        labels=torch.tensor([0, 9]),
    )


def test_stamps_keep_every_nanosecond() -> None:
    assert unpack.stamp_of(Image(header=convert.header_from(STAMP, "a"))) == STAMP


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8"])
def test_raw_colour_images(encoding: str, padding: int) -> None:
    rgb = pixels()
    data = rgb[..., ::-1] if encoding.startswith("bgr") else rgb
    if encoding.endswith("a8"):
        data = np.dstack([data, np.full((ROWS, COLS), 7, dtype=np.uint8)])
    np.testing.assert_array_equal(decoded(image_message(data, encoding, padding)), rgb)


def test_raw_grey_image() -> None:
    grey = pixels()[..., 0]
    np.testing.assert_array_equal(decoded(image_message(grey, "mono8", 3)), np.repeat(grey[..., None], 3, axis=2))


def test_rgb_is_not_copied() -> None:
    message = image_message(pixels(), "rgb8", padding=2)
    image = decoded(message)
    message.data[0] = (int(image[0, 0, 0]) + 1) % 256
    assert image[0, 0, 0] == message.data[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "16UC1"}, "encoding '16UC1' has more than 8 bits"),
        ({"step": 5}, "does not fit"),
        ({"height": 5}, "does not fit its 72 bytes"),
        ({"height": 0}, "has no pixels"),
        ({"encoding": "rgba8"}, "does not fit"),
    ],
)
def test_raw_image_that_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    message = image_message(pixels(), "rgb8")
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(ValueError, match=reason):
        decoded(message)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_image_is_rgb(suffix: str) -> None:
    rgb = np.zeros((16, 16, 3), dtype=np.uint8)
    rgb[..., 0] = 200
    content = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
    image = unpack.image_of(CompressedImage(format="jpeg", data=content), nominal_width=16, width=16)
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), [200, 0, 0], atol=2)


@pytest.mark.parametrize(("width", "expected"), [(16, 16), (9, 16), (8, 8), (4, 4), (1, 4)])
def test_a_much_larger_jpeg_is_decoded_smaller(width: int, expected: int) -> None:
    content = cv2.imencode(".jpg", np.zeros((16, 16, 3), dtype=np.uint8))[1].tobytes()
    image = unpack.image_of(CompressedImage(format="jpeg", data=content), nominal_width=16, width=width)
    assert image.shape == (expected, expected, 3)


def test_padding_behind_a_jpeg_is_no_damage() -> None:
    content = cv2.imencode(".jpg", np.zeros((16, 16, 3), dtype=np.uint8))[1].tobytes()
    padded = CompressedImage(format="jpeg", data=content + bytes(9000))
    assert unpack.image_of(padded, nominal_width=16, width=16).shape == (16, 16, 3)


def test_cut_jpeg_is_refused_even_with_a_whole_thumbnail_inside() -> None:
    thumbnail = cv2.imencode(".jpg", np.zeros((8, 8, 3), dtype=np.uint8))[1].tobytes()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = cv2.imencode(".jpg", noise)[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = content[:2] + segment + content[2:]
    message = CompressedImage(format="jpeg", data=whole)
    assert unpack.image_of(message, nominal_width=64, width=64).shape == (64, 64, 3)
    message.data = whole[:-100]
    with pytest.raises(ValueError, match="cut off"):
        unpack.image_of(message, nominal_width=64, width=64)


def test_depth_image_is_refused() -> None:
    message = CompressedImage(format="16UC1; compressedDepth png", data=b"")
    with pytest.raises(ValueError, match="not a colour image"):
        unpack.image_of(message, nominal_width=16, width=16)


def test_camera_info() -> None:
    calibration = unpack.calibration_of(info(d=[0.0] * 5), rectified=False)
    np.testing.assert_array_equal(calibration.matrix, [[100, 0, 50], [0, 110, 40], [0, 0, 1]])
    assert calibration.size == (80, 100)
    assert calibration.distortion is None
    bent = unpack.calibration_of(info(d=[0.1, 0.0, 0.0, 0.0, 0.0]), rectified=False)
    assert bent.model == "plumb_bob"
    np.testing.assert_array_equal(bent.distortion, [0.1, 0, 0, 0, 0])


def test_camera_info_of_rectified_images() -> None:
    projection = [90.0, 0.0, 48.0, 0.0, 0.0, 95.0, 41.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    calibration = unpack.calibration_of(info(d=[0.1, 0, 0, 0, 0.0], p=projection), rectified=True)
    np.testing.assert_array_equal(calibration.matrix, [[90, 0, 48], [0, 95, 41], [0, 0, 1]])
    assert calibration.distortion is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"k": [math.nan] * 9}, "not finite"),
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"d": [math.nan] * 5}, "distortion is not finite"),
        ({"width": 0}, "must be positive"),  # both are 0 where a driver does not know the size
    ],
)
def test_unusable_camera_info_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        unpack.calibration_of(info(**change), rectified=False)


def test_region_of_interest_is_refused() -> None:
    message = info()
    message.roi.width, message.roi.height = 50, 40
    with pytest.raises(ValueError, match="region of interest"):
        unpack.calibration_of(message, rectified=False)


def test_odometry() -> None:
    message = Odometry(header=convert.header_from(STAMP, "odom"), child_frame_id="base_link")
    message.pose.pose.position.x = 3.0
    message.pose.pose.orientation.z = message.pose.pose.orientation.w = math.sqrt(0.5)
    found = unpack.odometry_of(message, base_frame="base_link")
    stamp, pose = found.stamp_ns, found.odom_from_ego
    assert stamp == STAMP
    np.testing.assert_allclose(pose, [[0, -1, 0, 3], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-12)
    with pytest.raises(ValueError, match="frame 'base_link', but base_frame is 'base'"):
        unpack.odometry_of(message, base_frame="base")
    message.pose.pose.orientation.z = message.pose.pose.orientation.w = 0.0
    with pytest.raises(ValueError, match="not a rotation"):
        unpack.odometry_of(message, base_frame="base_link")
    message.pose.pose.position.y = math.inf
    with pytest.raises(ValueError, match="not finite"):
        unpack.odometry_of(message, base_frame="base_link")


def test_transform() -> None:
    message = TransformStamped()
    message.transform.translation.y = 2.0
    message.transform.rotation.x, message.transform.rotation.w = 1.0, 0.0
    expected = [[1, 0, 0, 0], [0, -1, 0, 2], [0, 0, -1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(unpack.transform_of(message), expected, atol=1e-12)


def test_detections() -> None:
    message = convert.detections_message(two_detections(), frame_id="base_link", model="tiny 1")
    assert unpack.stamp_of(message) == STAMP
    assert message.header.frame_id == "base_link"
    assert message.model == "tiny 1"
    car, cone = message.detections
    assert (car.class_name, car.score, car.attribute) == ("car", 0.75, "vehicle.moving")
    assert (car.pose.position.x, car.pose.position.y, car.pose.position.z) == (1.0, 2.0, 3.0)
    assert (car.size.x, car.size.y, car.size.z) == (4.0, 5.0, 6.0)
    assert (car.velocity.x, car.velocity.y, car.velocity.z) == (1.5, -2.0, 0.0)
    turn = car.pose.orientation
    np.testing.assert_allclose([turn.x, turn.y, turn.z, turn.w], [0, 0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-6)
    assert (cone.class_name, cone.attribute) == ("traffic_cone", "")


def test_no_detections() -> None:
    nothing = two_detections().above(1.0)
    assert convert.detections_message(nothing, frame_id="a", model="").detections == []


def test_vision_detections() -> None:
    pytest.importorskip("vision_msgs", reason="vision_msgs comes with a ROS distribution")
    message = convert.vision_detections_message(two_detections(), frame_id="base_link")
    assert [element.header for element in message.detections] == [message.header] * 2
    assert message.detections[0].results[0].hypothesis.class_id == "car"
    assert message.detections[0].bbox.size.x == 4.0


def test_markers() -> None:
    shapes = shapes_of(two_detections())
    message = convert.markers_message(shapes, stamp_ns=STAMP, frame_id="base_link", lifetime_s=0.75)
    kinds = {(marker.ns, marker.id): marker.type for marker in message.markers}
    assert kinds == {
        ("boxes", 0): Marker.CUBE,
        ("boxes", 1): Marker.CUBE,
        ("labels", 0): Marker.TEXT_VIEW_FACING,
        ("labels", 1): Marker.TEXT_VIEW_FACING,
        ("velocities", 0): Marker.ARROW,
    }
    assert all(marker.lifetime.nanosec == 750_000_000 for marker in message.markers)
    assert all(unpack.stamp_of(marker) == STAMP for marker in message.markers)
    assert all(marker.color.a > 0 for marker in message.markers)


def test_status() -> None:
    report = SetReport(
        stamp_ns=STAMP,
        cameras=("A", "B"),
        present=(True, False),
        age_ms=(20.0, math.nan),
        spread_ms=12.5,
        stage_ms={"wait": 3.0, "decode": 4.0},
        latency_ms=50.0,
        motion=Motion(is_known=True),
    )
    message = convert.status_message(report, frame_id="a", sets_processed=5, sets_dropped=2, drop_reason="missing B")
    assert list(message.present) == [True, False]
    assert message.age_ms[0] == 20.0
    assert math.isnan(message.age_ms[1])
    assert dict(zip(message.stages, message.stage_ms, strict=True)) == {"wait": 3.0, "decode": 4.0}
    assert (message.sets_processed, message.sets_dropped, message.drop_reason) == (5, 2, "missing B")


def test_diagnostics() -> None:
    items = [Item(name="rate", level=Level.WARN, message="1 Hz", values={"rate": "1"})]
    message = convert.diagnostics_message(items, now_ns=STAMP, node="detector", hardware_id="tiny 1")
    (status,) = message.status
    assert (status.name, status.level, status.message, status.hardware_id) == (
        "detector: rate",
        b"\x01",
        "1 Hz",
        "tiny 1",
    )
    assert (status.values[0].key, status.values[0].value) == ("rate", "1")


def test_sizes_are_compared_before_anything_is_decoded() -> None:
    done, png = cv2.imencode(".png", np.zeros((40, 50), np.uint8))
    assert done
    message = CompressedImage(format="png", data=png.tobytes())
    assert unpack.image_size_of(message) == (40, 50)
    with pytest.raises(ValueError, match="image of 50x40 has"):
        unpack.image_of(message, nominal_width=50, width=50, max_pixels=1999)
    raw = Image(height=40, width=50, step=50, encoding="mono8", data=bytes(2000))
    assert unpack.image_size_of(raw) == (40, 50)
    with pytest.raises(ValueError, match="image of 50x40 has"):
        unpack.image_of(raw, nominal_width=50, width=50, max_pixels=1999)
    thin = Image(height=3000, width=1, step=1, encoding="mono8", data=bytes(3000))
    with pytest.raises(ValueError, match="is too thin"):
        unpack.image_of(thin, nominal_width=1, width=1)


@pytest.mark.parametrize("size", [(65_500, 65_500), (60_000, 1), (1, 60_000)])
def test_calibrations_of_no_camera(size: tuple[int, int]) -> None:
    info = CameraInfo(height=size[0], width=size[1], k=[50.0, 0.0, 1.0, 0.0, 50.0, 1.0, 0.0, 0.0, 1.0])
    with pytest.raises(ValueError, match=f"image of {size[1]}x{size[0]} "):
        unpack.calibration_of(info, rectified=False)


def test_a_fault_quotes_little_of_what_was_sent() -> None:
    """Each of these is as long as whoever sends it likes."""
    long = "x" * 100_000
    camera = {"height": 40, "width": 50, "k": [50.0, 0.0, 1.0, 0.0, 50.0, 1.0, 0.0, 0.0, 1.0]}
    odometry = Odometry(child_frame_id=long)
    attempts = [
        lambda: unpack.image_of(Image(height=1, width=1, encoding=long), nominal_width=1, width=1),
        lambda: unpack.image_of(CompressedImage(format=long + "depth", data=b"x"), nominal_width=1, width=1),
        lambda: unpack.calibration_of(CameraInfo(**camera, distortion_model=long, d=[0.1]), rectified=False),
        lambda: unpack.calibration_of(CameraInfo(**camera, d=[float("nan")] * 100_000), rectified=False),
        lambda: unpack.calibration_of(CameraInfo(**camera, header=Header(frame_id=long)), rectified=False),
        lambda: unpack.odometry_of(odometry, base_frame="base_link"),
    ]
    for attempt in attempts:
        with pytest.raises(ValueError, match=r".") as caught:
            attempt()
        assert len(str(caught.value)) < 700

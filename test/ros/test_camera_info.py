"""camera_info as drivers in the field fill it: read as it was meant where that is certain, else refused or doubted."""

from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from bevdistill_ros.node.rig.calibration import SIZE_OF_IMAGE, Calibration
from bevdistill_ros.node.rig.rectifier import Rectifier
from bevdistill_ros.node.unpack import calibration_of

K = [500.0, 0.0, 319.5, 0.0, 500.0, 179.5, 0.0, 0.0, 1.0]
P = [450.0, 0.0, 310.0, 0.0, 0.0, 450.0, 170.0, 0.0, 0.0, 0.0, 1.0, 0.0]
P_OF_K = [500.0, 0.0, 319.5, 0.0, 0.0, 500.0, 179.5, 0.0, 0.0, 0.0, 1.0, 0.0]
LENS = [0.1, 0.01, 0.0, 0.0, 0.0]


def read(*, rectified: bool = False, topic: str = "", **fields: Any) -> Calibration:
    usual = {"height": 360, "width": 640, "k": K, "p": P_OF_K, "distortion_model": "plumb_bob", "d": LENS}
    return calibration_of(CameraInfo(**{**usual, **fields}), rectified=rectified, image_topic=topic)


@pytest.mark.parametrize(
    ("name", "given", "model", "expected"),
    [
        ("plumb_bob", [0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], "plumb_bob", [0.1, 0.2, 0, 0]),
        ("plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5] + [0.0] * 9, "plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("plumb_bob", [0.1, 0.2], "plumb_bob", [0.1, 0.2, 0, 0]),
        ("Plumb-Bob", [0.1, 0.2, 0, 0.3], "plumb_bob", [0.1, 0.2, 0, 0.3]),
        ("radtan", [0.1, 0.2, 0.3, 0.4], "plumb_bob", [0.1, 0.2, 0.3, 0.4]),
        ("radial-tangential", [0.1, 0.2, 0.3, 0.4], "plumb_bob", [0.1, 0.2, 0.3, 0.4]),
        ("", [0.1, 0.2, 0.3, 0.4, 0.5], "plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("", [0.1, 0, 0, 0, 0, 0.2, 0, 0], "rational_polynomial", [0.1, 0, 0, 0, 0, 0.2, 0, 0]),
        ("rational_polynomial", [0.1, 0.2, 0.3, 0.4, 0.5], "plumb_bob", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("rational_polynomial", [0.1] * 6 + [0.0] * 8, "rational_polynomial", [0.1] * 6 + [0] * 8),
        ("equidistant", [0.1, 0.2, 0.0, 0.0, 0.0], "equidistant", [0.1, 0.2, 0, 0]),
        ("equidistant", [0.0] * 5, "equidistant", [0, 0, 0, 0]),
        ("equidistant", [], "equidistant", [0, 0, 0, 0]),
        ("fisheye", [0.1, 0.2, 0.3, 0.4], "equidistant", [0.1, 0.2, 0.3, 0.4]),
        ("kannala_brandt4", [0.1], "equidistant", [0.1, 0, 0, 0]),
    ],
)
def test_lens_is_read_as_it_was_meant(name: str, given: list[float], model: str, expected: list[float]) -> None:
    calibration = read(distortion_model=name, d=given)
    assert calibration.model == model
    np.testing.assert_array_equal(calibration.distortion, expected)


@pytest.mark.parametrize("name", ["plumb_bob", "rational_polynomial", "", "none", "pinhole"])
@pytest.mark.parametrize("count", [0, 5])
def test_lens_without_distortion_is_straight(name: str, count: int) -> None:
    assert read(distortion_model=name, d=[0.0] * count).distortion is None


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("plumb_bob", [0.1, 0, 0, 0, 0, 0.01, 0, 0], "plumb_bob needs 4 or 5 coefficients, but has 8"),
        ("plumb_bob", [0.1, 0.2, 0.3], "plumb_bob needs 4 or 5 coefficients, but has 3"),
        ("equidistant", [0.1, 0.2, 0.3, 0.4, 0.5], "equidistant needs 4 coefficients, but has 5"),
        ("", [0.1, 0.2, 0.3, 0.4], "can mean several lenses"),
        ("pinhole", [0.1, 0.2, 0.3, 0.4], "can mean several lenses"),
        ("mei", [0.0] * 4, "can mean several lenses"),
        ("thin_prism_fisheye", [], "can mean several lenses"),
    ],
)
def test_lens_that_is_not_certain_is_refused_with_the_remedy(name: str, given: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read(distortion_model=name, d=given)
    assert "set images_rectified" in str(caught.value)


def test_equidistant_lens_with_zero_coefficients_is_not_straight() -> None:
    """A point at 50 degrees lies 160 px off where such a lens is taken for a pinhole."""
    matrix = [500.0, 0.0, 600.0, 0.0, 500.0, 180.0, 0.0, 0.0, 1.0]
    calibration = read(distortion_model="equidistant", d=[0.0] * 4, k=matrix, width=1300)
    angle = np.radians(50)
    image = np.zeros((360, 1300, 3), np.uint8)
    seen, straight = 600 + 500 * angle, 600 + 500 * np.tan(angle)
    assert round(straight - seen) == 160
    cv2.circle(image, (round(seen), 180), 4, (255, 255, 255), -1)
    columns = np.nonzero(Rectifier().rectify(image, calibration)[..., 0] > 100)[1]
    assert abs(columns.mean() - straight) < 2


def test_size_that_is_not_given_is_that_of_the_image() -> None:
    calibration = read(height=0, width=0)
    assert calibration.size == SIZE_OF_IMAGE
    assert calibration.of_image(np.zeros((360, 640, 3), np.uint8)).size == (360, 640)
    assert read().of_image(np.zeros((180, 320, 3), np.uint8)).size == (360, 640)
    with pytest.raises(ValueError, match="must be positive"):
        read(height=0)


def test_p_alone_describes_images_without_distortion() -> None:
    assert read(k=[0.0] * 9, p=P, d=[]).matrix[0, 0] == 450
    with pytest.raises(ValueError, match=r"its images can only be rectified.*set images_rectified"):
        read(k=[0.0] * 9, p=P)
    assert read(k=[0.0] * 9, p=P, rectified=True).matrix[0, 0] == 450


def test_rectified_images_need_p_unless_there_is_no_distortion() -> None:
    with pytest.raises(ValueError, match="images_rectified takes P of camera_info, which is zero"):
        read(p=[0.0] * 12, rectified=True)
    assert read(p=[0.0] * 12, d=[], rectified=True).matrix[0, 0] == 500


@pytest.mark.parametrize(
    ("fields", "doubt"),
    [
        ({"topic": "/front/image_rect_color/compressed"}, "/front/image_rect_color/compressed is named as rectified"),
        ({"topic": "/front/rectified/image"}, "is named as rectified"),
        ({"topic": "/front/image_raw"}, ""),
        ({"topic": "/front/image_rect", "rectified": True}, ""),
        ({"topic": "/front/image_rect", "d": [0.0] * 5}, ""),
        (
            {"topic": "/front/image", "d": [0.0] * 5, "p": P},
            r"P is another matrix than K \(focal length 500 px in K",
        ),
        ({"topic": "/front/image", "d": [0.0] * 5, "p": [0.0] * 12}, ""),
        ({"topic": "/front/image", "p": P}, ""),
        ({"topic": "/front/image_raw/compressed", "rectified": True}, "is named as raw, but images_rectified is set"),
    ],
)
def test_doubt_whether_images_are_rectified(fields: dict[str, Any], doubt: str) -> None:
    found = read(**fields).doubt
    assert bool(found) == bool(doubt), found
    if doubt:
        with pytest.raises(AssertionError, match=doubt):
            raise AssertionError(found)


def test_frame_has_no_leading_slash() -> None:
    assert read(header=Header(frame_id="/front_optical")).frame_id == "front_optical"

"""Images as cameras in the field send them: mosaics, YUV, names of OpenCV, more than eight bits."""

import builtins
import sys
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.ros

pytest.importorskip("rclpy", reason="needs rclpy: make setup, then source scripts/env.sh")
pytest.importorskip("bevdistill_ros.msg", reason="needs the built messages: make setup")

from sensor_msgs.msg import CompressedImage, Image

from bevdistill_ros.node.unpack import image_of, loses_colours

ROWS, COLS = 48, 64
COLOURS = np.array([[[200, 40, 60], [30, 180, 90]], [[50, 70, 210], [120, 120, 120]]], dtype=np.uint8)
SCENE = np.repeat(np.repeat(COLOURS, ROWS // 2, axis=0), COLS // 2, axis=1)  # four patches, RGB
PATTERNS = {"rggb": [[0, 1], [1, 2]], "bggr": [[2, 1], [1, 0]], "gbrg": [[1, 2], [0, 1]], "grbg": [[1, 0], [2, 1]]}


def mosaic(pattern: str) -> np.ndarray:
    """What a sensor with this pattern sees of the scene."""
    channel = np.tile(np.array(PATTERNS[pattern]), (ROWS // 2, COLS // 2))
    return np.take_along_axis(SCENE, channel[..., None], axis=2)[..., 0]


def yuv(order: str) -> np.ndarray:
    """The scene in YUV 4:2:2."""
    matrix = np.array([[0.257, 0.504, 0.098], [-0.148, -0.291, 0.439], [0.439, -0.368, -0.071]])  # ITU-R BT.601
    y, u, v = np.moveaxis(SCENE @ matrix.T + [16, 128, 128], 2, 0)
    packed = np.empty((ROWS, COLS, 2))
    luma, chroma = (1, 0) if order == "uyvy" else (0, 1)
    packed[..., luma], packed[:, ::2, chroma], packed[:, 1::2, chroma] = y, u[:, ::2], v[:, ::2]
    return packed.round().astype(np.uint8)


def raw(data: np.ndarray, encoding: str, padding: int = 0) -> Image:
    flat = np.pad(data.reshape(ROWS, -1), ((0, 0), (0, padding)))
    return Image(height=ROWS, width=COLS, encoding=encoding, step=flat.shape[1], data=flat.tobytes())


def read(message: Any) -> np.ndarray:
    return image_of(message, nominal_width=COLS, width=COLS)


def assert_scene(pixels: np.ndarray, tolerance: float) -> None:
    """The middle of each patch has its colour."""
    assert pixels.shape == (ROWS, COLS, 3)
    for row in range(2):
        for col in range(2):
            patch = pixels[row * 24 + 8 : row * 24 + 16, col * 32 + 8 : col * 32 + 24].reshape(-1, 3)
            np.testing.assert_allclose(patch.mean(0), COLOURS[row, col], atol=tolerance)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_raw_mosaic_has_the_colours_of_its_pattern(pattern: str, padding: int) -> None:
    assert_scene(read(raw(mosaic(pattern), f"bayer_{pattern}8", padding)), 0.5)


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
def test_raw_yuv(encoding: str, order: str) -> None:
    assert_scene(read(raw(yuv(order), encoding)), 3)


def test_names_of_opencv_are_in_its_order() -> None:
    bgr = SCENE[..., ::-1]
    np.testing.assert_array_equal(read(raw(bgr, "8UC3")), SCENE)
    np.testing.assert_array_equal(read(raw(np.dstack([bgr, bgr[..., 0]]), "8UC4")), SCENE)
    np.testing.assert_array_equal(read(raw(SCENE[..., 0], "8UC1")), np.repeat(SCENE[..., :1], 3, axis=2))


@pytest.mark.parametrize("encoding", ["mono16", "16UC1", "32FC1", "rgb16", "bayer_rggb16", "16SC3", "64FC1"])
def test_more_than_eight_bits_are_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match=f"encoding '{encoding}' has more than 8 bits.*publish rgb8 or bgr8"):
        read(raw(SCENE, encoding))


def test_image_that_cannot_be_of_its_encoding_is_refused() -> None:
    message = Image(height=4, width=3, encoding="yuv422", step=6, data=bytes(24))
    with pytest.raises(ValueError, match="image of 3x4 cannot be of encoding 'yuv422'"):
        image_of(message, nominal_width=3, width=3)


def test_encoding_that_nobody_knows_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match="encoding 'nv21' is not known to cv_bridge") as caught:
        read(raw(SCENE[..., 0], "nv21"))
    assert "\n" not in str(caught.value)


def test_without_cv_bridge_only_what_needs_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cv_bridge"):
            raise ModuleNotFoundError("No module named 'cv_bridge'")
        return genuine(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    np.testing.assert_array_equal(read(raw(SCENE, "rgb8")), SCENE)
    with pytest.raises(ValueError, match=r"encoding 'nv21' needs cv_bridge, which cannot be imported .*install"):
        read(raw(SCENE[..., 0], "nv21"))


def compressed(data: np.ndarray, form: str, suffix: str = ".jpg") -> CompressedImage:
    return CompressedImage(format=form, data=cv2.imencode(suffix, data, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_compressed_mosaic_has_the_colours_of_its_pattern(pattern: str, suffix: str) -> None:
    message = compressed(mosaic(pattern), f"bayer_{pattern}8; jpeg compressed ", suffix)
    assert_scene(read(message), 6)


def test_mosaic_is_read_at_full_size() -> None:
    """At half size its four colours would have been mixed."""
    message = compressed(mosaic("rggb"), "bayer_rggb8; jpeg compressed ")
    assert_scene(image_of(message, nominal_width=COLS, width=COLS // 4), 6)


def test_mosaic_that_was_converted_before_is_colour_already() -> None:
    assert_scene(read(compressed(SCENE[..., ::-1], "bayer_rggb8; jpeg compressed bgr8")), 12)


@pytest.mark.parametrize(
    ("data", "form", "suffix"),
    [
        (SCENE[..., ::-1], "bayer_rggb8; jpeg compressed ", ".jpg"),
        (mosaic("rggb"), "bayer_xyzw8; jpeg compressed ", ".jpg"),
        (mosaic("rggb"), "yuv422_yuy2; jpeg compressed ", ".jpg"),
        (np.full((48, 64), 1500, np.uint16), "16UC1; png compressed ", ".png"),
        (np.full((48, 64), 3000, np.uint16), "mono16; png compressed ", ".png"),
        (np.full((48, 64), 3000, np.uint16), "png", ".png"),
        (np.full((48, 64), 1, np.uint8), "bayer_rggb16; png compressed ", ".png"),
        (np.full((48, 64), 1, np.uint8), "32FC1; compressedDepth png", ".png"),
    ],
    ids=["colours", "pattern", "yuv", "depth", "mono16", "16 bits", "bayer16", "compressedDepth"],
)
def test_compressed_image_that_would_be_guessed_is_refused(data: np.ndarray, form: str, suffix: str) -> None:
    with pytest.raises(ValueError, match=f"format '{form}'"):
        read(compressed(data, form, suffix))


def test_colours_that_were_dropped_are_named() -> None:
    grey = compressed(SCENE[..., 0], "yuv422_yuy2; jpeg compressed mono8")
    assert read(grey).shape == (ROWS, COLS, 3)
    assert "its colours were dropped" in loses_colours(grey)
    for form in ("jpeg", "mono8; jpeg compressed mono8", "rgb8; jpeg compressed bgr8", "yuv422; jpeg compressed bgr8"):
        assert loses_colours(compressed(SCENE, form)) == ""
    assert loses_colours(raw(SCENE, "rgb8")) == ""

"""Pixels of raw and compressed images, read as their encoding or format says and never guessed.

The network takes 8-bit colour. rgb8 is not copied; what OpenCV knows is converted by it; other encodings by cv_bridge,
which is imported when the first such image comes.
"""

import re
from typing import Any, NamedTuple

import cv2
import numpy as np

from bevdistill_ros.core.image_size import MAX_PIXELS
from bevdistill_ros.core.text import one_line, quote
from bevdistill_ros.inference.decode import decode_image


class _Layout(NamedTuple):
    """How an encoding lies in memory."""

    channels: int
    to_rgb: int | None  # conversion of OpenCV; None for RGB itself


_LAYOUTS = {
    "rgb8": _Layout(3, None),
    "bgr8": _Layout(3, cv2.COLOR_BGR2RGB),
    "rgba8": _Layout(4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Layout(4, cv2.COLOR_BGRA2RGB),
    "mono8": _Layout(1, cv2.COLOR_GRAY2RGB),
    # Names of OpenCV, whose order of colours is BGR; cv_bridge writes them for `passthrough`.
    "8UC1": _Layout(1, cv2.COLOR_GRAY2RGB),
    "8UC3": _Layout(3, cv2.COLOR_BGR2RGB),
    "8UC4": _Layout(4, cv2.COLOR_BGRA2RGB),
    "yuv422": _Layout(2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": _Layout(2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": _Layout(2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": _Layout(2, cv2.COLOR_YUV2RGB_YUY2),
    # ROS names a mosaic by its first four pixels, OpenCV by the second row's second and third.
    "bayer_rggb8": _Layout(1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _Layout(1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _Layout(1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _Layout(1, cv2.COLOR_BayerGB2RGB),
}
FULL_WIDTH = 65_535  # [px] no image is wider, so none is decoded at a reduced scale
_BAYER = "bayer_"
_DEEP = re.compile(r"(mono|rgb|rgba|bgr|bgra|bayer_....)(16|32)|(8S|16U|16S|32S|32F|64F)(C\d+)?")
_PUBLISH = "publish rgb8 or bgr8"
_PNG = b"\x89PNG"
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # places of the bit depth and the colour type in a PNG file


def raw_image(data: Any, *, rows: int, cols: int, step: int, encoding: str) -> np.ndarray | None:
    """Pixels (h, w, 3) uint8 RGB of a raw image; None where only cv_bridge may know the encoding.

    Args:
        data: Its bytes; those of rgb8 are not copied.
        rows: Height [px].
        cols: Width [px].
        step: Length of a row [bytes].
        encoding: As in sensor_msgs/image_encodings.

    Raises:
        ValueError: The sizes do not fit the data, or its values cannot be 8-bit brightness.
    """
    if _DEEP.fullmatch(encoding):
        unknown = "has more than 8 bits, and nothing says how they become brightness"
        raise ValueError(f"encoding {quote(encoding)} {unknown}; {_PUBLISH}, or mono8")
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        return None
    width = cols * layout.channels
    if rows < 1 or cols < 1 or step < width or len(data) != rows * step:
        raise ValueError(f"image of {cols}x{rows} {encoding} with step {step} does not fit its {len(data)} bytes")
    pixels = np.frombuffer(data, dtype=np.uint8).reshape(rows, step)[:, :width].reshape(rows, cols, layout.channels)
    return _to_rgb(pixels, encoding)


def with_cv_bridge(message: Any, encoding: str) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of an Image message, by cv_bridge.

    Raises:
        ValueError: cv_bridge is not there, or does not convert the encoding to colour.
    """
    try:
        from cv_bridge import CvBridge
    except Exception as error:  # built for another NumPy, it raises whatever it likes
        raise ValueError(
            f"encoding {quote(encoding)} needs cv_bridge, which cannot be imported ({one_line(error)}); install it, or "
            f"{_PUBLISH}"
        ) from error
    try:
        return np.asarray(CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8"))
    except Exception as error:  # of its own kind, KeyError and cv2.error, by version
        raise ValueError(
            f"encoding {quote(encoding)} is not known to cv_bridge ({type(error).__name__}: {one_line(error)}); "
            f"{_PUBLISH}"
        ) from error


def compressed_image(
    content: bytes, *, form: str, nominal_width: int, width: int, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of a compressed image.

    Args:
        content: The file.
        form: Its format, of image_transport such as `bayer_rggb8; jpeg compressed `, or of others such as `jpeg`.
        nominal_width: Columns of the whole image [px].
        width: Columns that are needed in the end [px]; see `decode_image`.
        max_pixels: Pixels that the whole image may have.

    Raises:
        ValueError: The image is damaged, not a colour image, or of another format.
    """
    source, _, codec = (part.strip() for part in form.partition(";"))
    if "depth" in form.lower() or _DEEP.fullmatch(source) or _is_deep_grey(content):
        raise ValueError(
            f"format {quote(form)} is not a colour image of 8 bits, and nothing says how its values become brightness; "
            f"compress rgb8, bgr8 or mono8"
        )
    target = codec.rpartition("compressed")[2].strip()
    if source.startswith(_BAYER) and target in ("", "mono8", source):
        return _mosaic(content, source, form, max_pixels)
    if codec and _loses_colours(source) and target == "":
        raise ValueError(f"format {quote(form)} does not say what became of the colours; {_PUBLISH} before compressing")
    return decode_image(content, nominal_width=nominal_width, width=width, max_pixels=max_pixels)


def colours_lost(form: str) -> bool:
    """Whether the format of a compressed image says that it came in colours and was compressed as grey."""
    source, _, codec = (part.strip() for part in form.partition(";"))
    return _loses_colours(source) and codec.endswith("mono8")


def _loses_colours(source: str) -> bool:
    """Whether image_transport makes a grey image of this encoding."""
    return source.startswith("yuv") or source in ("uyvy", "yuyv", "nv21", "nv24")


def _mosaic(content: bytes, source: str, form: str, max_pixels: int) -> np.ndarray:
    """Colours of a Bayer mosaic that was compressed as a grey image; at full size, as scaling would mix its colours."""
    if source not in _LAYOUTS:
        raise ValueError(f"format {quote(form)} is a mosaic of an unknown pattern; {_PUBLISH} before compressing")
    pixels = decode_image(content, nominal_width=FULL_WIDTH, width=FULL_WIDTH, max_pixels=max_pixels)
    grey = pixels[..., :1]
    if (pixels != grey).any():
        raise ValueError(
            f"format {quote(form)} says that it is a mosaic, but it has colours; {_PUBLISH} before compressing"
        )
    return _to_rgb(np.ascontiguousarray(grey), source)


def _to_rgb(pixels: np.ndarray, encoding: str) -> np.ndarray:
    conversion = _LAYOUTS[encoding].to_rgb
    if conversion is None:
        return pixels
    try:
        return np.asarray(cv2.cvtColor(pixels, conversion))
    except cv2.error as error:  # a mosaic of one row, YUV of an odd width
        rows, cols = pixels.shape[:2]
        raise ValueError(f"image of {cols}x{rows} cannot be of encoding '{encoding}': {error.err}") from error


def _is_deep_grey(content: bytes) -> bool:
    """Whether this is a grey PNG of 16 bits: depth, or brightness on an unknown scale."""
    return content.startswith(_PNG) and content[_PNG_DEPTH : _PNG_COLOUR + 1] == b"\x10\x00"

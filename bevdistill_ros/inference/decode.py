"""Compressed images to arrays: one function for files of a data set and for messages.

Both decoders are libjpeg-turbo and give the same pixels; simplejpeg spares a pass to swap the colours.
"""

import struct

import cv2
import numpy as np

from bevdistill_ros.core.image_size import MAX_PIXELS, check_image_size
from bevdistill_ros.core.text import one_line

try:
    import simplejpeg
except ModuleNotFoundError:  # no ROS distribution has it
    simplejpeg = None

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of the segments that hold the size
_JPEG_SCAN, _JPEG_END, _PNG_END = b"\xff\xda", b"\xff\xd9", b"IEND"


def decode_image(content: bytes, *, nominal_width: int, width: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a JPEG or PNG image to (h, w, 3) uint8 RGB.

    Args:
        content: The file.
        nominal_width: Columns of the whole image [px].
        width: Columns that are needed in the end [px]; an image at least twice as wide is decoded at half or a quarter
            of its size, which is faster.
        max_pixels: Pixels that the whole image may have.

    Raises:
        ValueError: The image is cut off, damaged, of another format or too large.
    """
    if not is_complete(content):
        raise ValueError(f"image is cut off or neither JPEG nor PNG ({len(content)} bytes)")
    check_image_size(*image_size(content), max_pixels=max_pixels)
    reduced = max((factor for factor in _REDUCED if nominal_width >= factor * width), default=1)
    if simplejpeg is not None and content.startswith(_JPEG):
        return _decode_with_simplejpeg(content, -(-nominal_width // reduced))
    return _decode_with_opencv(content, reduced)


def _decode_with_simplejpeg(content: bytes, width: int) -> np.ndarray:
    """Decode a JPEG at the smallest scale that is at least `width` columns wide."""
    try:
        # Not strict: it would refuse what OpenCV and every viewer shows, such as bytes between two markers.
        return np.asarray(simplejpeg.decode_jpeg(content, "RGB", min_width=width, min_height=1, strict=False))
    except ValueError as error:
        raise ValueError(f"image is damaged ({len(content)} bytes): {one_line(error)}") from error


def _decode_with_opencv(content: bytes, reduced: int) -> np.ndarray:
    """Decode at 1 / `reduced` of the size."""
    mode = _REDUCED.get(reduced, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), mode)
    except cv2.error as error:
        raise ValueError(f"image is damaged ({len(content)} bytes): {one_line(error)}") from error
    if image is None:
        raise ValueError(f"image is damaged ({len(content)} bytes)")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def image_size(content: bytes) -> tuple[int, int]:
    """Height and width [px] that the head of a JPEG or PNG image states; nothing is decoded.

    Raises:
        ValueError: There is no such head.
    """
    if content.startswith(_PNG) and len(content) >= 24:
        cols, rows = struct.unpack_from(">II", content, 16)
        return rows, cols
    place = 2
    while content.startswith(_JPEG) and place + 9 <= len(content):
        marker = content[place + 1]
        if content[place] != 0xFF:
            place += 1  # decoders skip what lies between two markers
        elif marker in _JPEG_FRAMES:
            rows, cols = struct.unpack_from(">HH", content, place + 5)
            return rows, cols
        elif marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # without content
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    fault = "is damaged" if content.startswith(_JPEG) else "is cut off or neither JPEG nor PNG"
    raise ValueError(f"image {fault} ({len(content)} bytes): it does not state its size")


def is_complete(content: bytes) -> bool:
    """Whether an image ends as its format must; decoders fill what is missing with grey and say nothing.

    Inside the data of a JPEG scan neither marker can occur, so an end before the last scan is that of a thumbnail.
    """
    if content.startswith(_JPEG):
        end = content.rfind(_JPEG_END)
        return content.find(_JPEG_SCAN, 0, max(end, 0)) > 0 and content.find(_JPEG_SCAN, end) < 0
    return content.startswith(_PNG) and _PNG_END in content[-64:]

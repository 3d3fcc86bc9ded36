"""Reading camera images from disk."""

from pathlib import Path

import cv2
import numpy as np

_END_MARKERS: dict[bytes, bytes] = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}  # magic: end of image
_TAIL = 4096  # [bytes] writers may pad behind the end marker
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def read_image(path: Path, size: tuple[int, int], width: int) -> np.ndarray:
    """Decode an image to (h, w, 3) uint8 RGB.

    Args:
        path: JPEG or PNG file.
        size: Height and width [px] that the tables state.
        width: Columns that are needed; an image at least twice as wide is decoded at half or a quarter of its size.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off or damaged, or has another aspect than `size`.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise FileNotFoundError(f"image {path} is missing; unpack the camera files of the data set in full") from error
    image = None
    if _is_complete(content):
        reduced = max((factor for factor in _REDUCED if size[1] >= factor * width), default=1)
        mode = _REDUCED.get(reduced, cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
        image = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), mode)
    if image is None:
        raise ValueError(f"image {path} is cut off or damaged ({len(content)} bytes); copy it again")
    # Halving rounds odd sizes up, so each side may be off by up to one pixel.
    if abs(image.shape[0] * size[1] - image.shape[1] * size[0]) > max(size):
        raise ValueError(
            f"image {path} decodes to {image.shape[1]}x{image.shape[0]}, "
            f"another aspect than the {size[1]}x{size[0]} in the tables"
        )
    return np.ascontiguousarray(image[:, :, ::-1])


def _is_complete(content: bytes) -> bool:
    """Whether a file ends as its format must; decoders fill what is missing with grey and say nothing."""
    for magic, end in _END_MARKERS.items():
        if content.startswith(magic):
            return end in content[-_TAIL:]
    return bool(content)

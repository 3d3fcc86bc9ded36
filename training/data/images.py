"""Reading camera images from disk."""

from pathlib import Path

import numpy as np

from bevdistill_ros.inference.decode import decode_image


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
    try:
        image = decode_image(content, nominal_width=size[1], width=width)
    except ValueError as error:
        raise ValueError(f"image {path} is cut off or damaged ({len(content)} bytes); copy it again") from error
    # Halving rounds odd sizes up, so each side may be off by up to one pixel.
    if abs(image.shape[0] * size[1] - image.shape[1] * size[0]) > max(size):
        raise ValueError(
            f"image {path} decodes to {image.shape[1]}x{image.shape[0]}, "
            f"another aspect than the {size[1]}x{size[0]} in the tables"
        )
    return image

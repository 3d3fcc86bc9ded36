"""Arrays as text: deflated and in base 64, read back with a known length."""

import base64
import binascii
import zlib
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MAX_VALUES = 200_000_000  # of one array; nuScenes' validation split has 3 million detections at most


def to_blob(values: NDArray[Any]) -> str:
    """Text of an array, little-endian."""
    plain = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return base64.b64encode(zlib.compress(plain, 9)).decode("ascii")


def from_blob(text: object, kind: DTypeLike, count: int) -> NDArray[Any]:
    """An array of `count` values.

    Raises:
        ValueError: The text is not that of such an array.
    """
    kind = np.dtype(kind).newbyteorder("<")
    if not isinstance(text, str) or not 0 <= count <= MAX_VALUES:
        raise ValueError("an array is not text, or too long")
    wanted = count * kind.itemsize
    try:
        plain = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), wanted + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"an array is damaged: {error}") from error
    if len(plain) != wanted:
        raise ValueError(f"an array holds other than the {count} values that it should")
    return np.frombuffer(plain, dtype=kind).astype(kind.newbyteorder("="))

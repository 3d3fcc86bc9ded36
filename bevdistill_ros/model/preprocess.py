"""Camera images to network input: one function for training, evaluation, export and the node."""

from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

Map = Callable[..., Any]  # the built-in `map`, or that of a pool of threads


def preprocess(
    images: Sequence[np.ndarray | None],
    intrinsics: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    height: int,
    width: int,
    out: Tensor | None = None,
    run: Map = map,
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring camera images to one size, and their intrinsics with them.

    An image is scaled so that its width fits. What is then too high loses its top rows (sky); what is too low gets
    black rows at the bottom. Pixel centres lie at whole numbers, so a scale s carries u to s (u + 0.5) - 0.5.

    Args:
        images: One (h, w, 3) uint8 RGB array a camera, or None for a camera that is missing. It may have been decoded
            at a reduced scale of its nominal size.
        intrinsics: (N, 3, 3) [px] of images of the nominal sizes.
        sizes: Nominal height and width [px] of each camera.
        height: Rows of the network's input [px].
        width: Columns of the network's input [px].
        out: (N, 3, height, width) uint8 on the CPU to write the images to, whatever it holds; None makes a new one.
        run: How to go through the cameras; the `map` of a pool of threads takes them at once.

    Returns:
        Images (N, 3, height, width) uint8 RGB, black where missing; intrinsics (N, 3, 3) float64 of those images; and
        valid (N,) bool, False for a missing camera.

    Raises:
        ValueError: The counts differ, an image is not (h, w, 3) uint8, its aspect is not that of its nominal size, or
            `out` is not of the shape.
    """
    count = len(images)
    if tuple(intrinsics.shape) != (count, 3, 3) or len(sizes) != count:
        raise ValueError(
            f"{count} images need intrinsics ({count}, 3, 3) and {count} sizes, "
            f"but got {tuple(intrinsics.shape)} and {len(sizes)}"
        )
    shape = (count, 3, height, width)
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8)
    elif tuple(out.shape) != shape or out.dtype != torch.uint8:
        raise ValueError(f"out must be uint8 {shape}, but is {out.dtype} {tuple(out.shape)}")
    list(run(_fit, images, sizes, range(count), out.numpy()))
    scaled = torch.stack(
        [_fitted_intrinsics(matrix, size, height, width) for matrix, size in zip(intrinsics, sizes, strict=True)]
    )
    valid = torch.tensor([image is not None for image in images], dtype=torch.bool)
    return out, scaled, valid


def _fit(image: np.ndarray | None, size: tuple[int, int], index: int, planes: np.ndarray) -> None:
    """Write an image of nominal size `size`, or black, to `planes` (3, height, width)."""
    height, width = planes.shape[1:]
    rows, cropped = _rows_of(size, height, width)
    filled = 0
    if image is not None:
        _check_image(image, size, index)
        filled = rows - cropped
        cv2.split(_resize(image, rows, width)[cropped:], [plane[:filled] for plane in planes])
    planes[:, filled:] = 0


def _rows_of(size: tuple[int, int], height: int, width: int) -> tuple[int, int]:
    """Rows of an image once it is `width` wide, and how many of them are cut off at the top."""
    rows = max(round(size[0] * width / size[1]), 1)
    return rows, max(rows - height, 0)


def _check_image(image: np.ndarray, size: tuple[int, int], index: int) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image {index} must be uint8 (h, w, 3), but is {image.dtype} {image.shape}")
    # A decoder that halves rounds odd sizes up, so each side may be off by up to one pixel.
    if abs(image.shape[0] * size[1] - image.shape[1] * size[0]) > max(size):
        raise ValueError(
            f"image {index} of {image.shape[1]}x{image.shape[0]} has another aspect than its calibration, "
            f"{size[1]}x{size[0]}"
        )


def _resize(image: np.ndarray, rows: int, cols: int) -> np.ndarray:
    """Scale an image: halve it by mean values while it is twice as wide as needed, then go on bilinearly.

    A JPEG decoder that halves does the first half of that; and means over odd shares of pixels would take longer than
    the decoding.
    """
    halvings = max((image.shape[1] // cols).bit_length() - 1, 0)
    if halvings:
        half = (-(-image.shape[1] >> halvings), -(-image.shape[0] >> halvings))
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (rows, cols):
        return image
    return np.asarray(cv2.resize(image, (cols, rows), interpolation=cv2.INTER_LINEAR))


def _fitted_intrinsics(matrix: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """Intrinsics (3, 3) float64 after scaling about the image's corner and cutting off rows at the top."""
    rows, cropped = _rows_of(size, height, width)
    scale_u, scale_v = width / size[1], rows / size[0]
    change = torch.tensor(
        [
            [scale_u, 0.0, 0.5 * scale_u - 0.5],
            [0.0, scale_v, 0.5 * scale_v - 0.5 - cropped],
            [0.0, 0.0, 1.0],
        ],
        dtype=torch.float64,
    )
    return change @ matrix.double()

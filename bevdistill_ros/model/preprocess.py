"""Camera images to network input: one function for training, evaluation, export and the node."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor


def preprocess(
    images: Sequence[np.ndarray | None],
    intrinsics: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    height: int,
    width: int,
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

    Returns:
        Images (N, 3, height, width) uint8 RGB, black where missing; intrinsics (N, 3, 3) float64 of those images; and
        valid (N,) bool, False for a missing camera.

    Raises:
        ValueError: The counts differ, an image is not (h, w, 3) uint8, or its aspect is not that of its nominal size.
    """
    count = len(images)
    if tuple(intrinsics.shape) != (count, 3, 3) or len(sizes) != count:
        raise ValueError(
            f"{count} images need intrinsics ({count}, 3, 3) and {count} sizes, "
            f"but got {tuple(intrinsics.shape)} and {len(sizes)}"
        )
    canvas = np.zeros((count, height, width, 3), dtype=np.uint8)
    scaled = intrinsics.to(torch.float64, copy=True)
    for index, (image, size) in enumerate(zip(images, sizes, strict=True)):
        rows = max(round(size[0] * width / size[1]), 1)
        cropped = max(rows - height, 0)
        if image is not None:
            _check_image(image, size, index)
            canvas[index, : rows - cropped] = _resize(image, rows, width)[cropped:]
        scaled[index] = _scaled_intrinsics(scaled[index], width / size[1], rows / size[0], cropped)
    valid = torch.tensor([image is not None for image in images], dtype=torch.bool)
    return torch.from_numpy(canvas).permute(0, 3, 1, 2).contiguous(), scaled, valid


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
    if image.shape[:2] == (rows, cols):
        return image
    method = cv2.INTER_AREA if cols < image.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (cols, rows), interpolation=method))


def _scaled_intrinsics(matrix: Tensor, scale_u: float, scale_v: float, cropped: int) -> Tensor:
    """Intrinsics (3, 3) after scaling about the image's corner and cutting off `cropped` rows at the top."""
    change = matrix.new_tensor(
        [
            [scale_u, 0.0, 0.5 * scale_u - 0.5],
            [0.0, scale_v, 0.5 * scale_v - 0.5 - cropped],
            [0.0, 0.0, 1.0],
        ]
    )
    return change @ matrix

"""Camera images to network input: one function for training, evaluation, export and the node."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.image_size import check_image_size
from bevdistill_ros.model.fit import Fit, ImageTarget, fit_of

Map = Callable[..., Any]  # the built-in `map`, or that of a pool of threads


def preprocess(
    images: Sequence[np.ndarray | None],
    intrinsics: Tensor,
    mountings: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    target: ImageTarget,
    out: Tensor | None = None,
    run: Map = map,
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring camera images to the size of the network's input, and their intrinsics with them.

    What is scaled, cut off and padded is the target's policy, see `model.fit`. Pixel centres lie at whole numbers, so a
    scale s carries u to s (u + 0.5) - 0.5.

    Args:
        images: One (h, w, 3) uint8 RGB array per camera, or None for a camera that is missing. It may have been decoded
            at a reduced scale of its nominal size.
        intrinsics: (N, 3, 3) [px] of images of the nominal sizes.
        mountings: (N, 4, 4) ego_from_camera [m] as the cameras are fixed to the vehicle, without ego motion.
        sizes: Nominal height and width [px] of each camera.
        target: What the network takes.
        out: (N, 3, height, width) uint8 on the CPU to write the images to, whatever it holds; None makes a new one.
        run: How to go through the cameras; the `map` of a pool of threads takes them at once.

    Returns:
        Images (N, 3, height, width) uint8 RGB, of the target's fill colour where missing; intrinsics (N, 3, 3) float64
        of those images; and valid (N,) bool, False for a missing camera.

    Raises:
        ValueError: The counts differ, an image is not (h, w, 3) uint8, its aspect is not that of its nominal size, or
            `out` is not of the shape.
    """
    count = len(images)
    if tuple(intrinsics.shape) != (count, 3, 3) or tuple(mountings.shape) != (count, 4, 4) or len(sizes) != count:
        raise ValueError(
            f"{count} images need intrinsics ({count}, 3, 3), mountings ({count}, 4, 4) and {count} sizes, "
            f"but got {tuple(intrinsics.shape)}, {tuple(mountings.shape)} and {len(sizes)}"
        )
    shape = (count, 3, *target.size)
    if out is None:
        out = torch.empty(shape, dtype=torch.uint8)
    elif tuple(out.shape) != shape or out.dtype != torch.uint8:
        raise ValueError(f"out must be uint8 {shape}, but is {out.dtype} {tuple(out.shape)}")
    for size in sizes:
        check_image_size(*size, max_pixels=sys.maxsize)  # what may be decoded is the caller's choice
    matrices, poses = intrinsics.double(), mountings.double().numpy()
    fits = [fit_of(*entry) for entry in zip(sizes, [target] * count, matrices.numpy(), poses, strict=True)]
    list(run(_place, images, sizes, fits, [target] * count, range(count), out.numpy()))
    changes = [torch.from_numpy(fit.matrix(size)) for fit, size in zip(fits, sizes, strict=True)]
    scaled = torch.stack([change @ matrix for change, matrix in zip(changes, matrices, strict=True)])
    valid = torch.tensor([image is not None for image in images], dtype=torch.bool)
    return out, scaled, valid


def _place(
    image: np.ndarray | None, size: tuple[int, int], fit: Fit, target: ImageTarget, index: int, planes: np.ndarray
) -> None:
    """Write an image of nominal size `size`, or the fill colour, to `planes` (3, height, width)."""
    rows, cols = (0, 0) if image is None else fit.filled(target)
    if image is not None:
        _check_image(image, size, index)
        shown = _resize(image, fit.rows, fit.cols)[fit.top : fit.top + rows]
        if cols == target.width:
            cv2.split(shown, [plane[:rows] for plane in planes])
        else:
            planes[:, :rows, :cols] = shown.transpose(2, 0, 1)
    for plane, fill in zip(planes, target.fill, strict=True):
        plane[rows:] = fill
        plane[:rows, cols:] = fill


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

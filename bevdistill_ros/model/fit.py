"""How a camera image is brought to the size of the network's input: what is scaled, cut off and padded.

One policy belongs to the weights, see `StudentConfig.image_fit`:

- `horizon`: the width fits. Of an image that is then too high, the rows that show most of the objects on the road are
  kept, by intrinsics and mounting (`core.scene`); of crops that are equal to 1 %, the lowest. Where any crop would lose
  more than a quarter of them, the whole image is kept, as with `pad`.
- `pad`: the whole image is scaled to fit inside the input, as BEVFormer's.
- `top`: the width fits, and what is too high loses its top rows wherever the horizon is; of weights from before there
  was a choice. On the 16:9 cameras of nuScenes it is the crop that `horizon` chooses.

What the image does not cover is at the right and at the bottom, and has the mean colour (black with `top`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from bevdistill_ros.core.scene import object_pixels

FitPolicy = Literal["horizon", "pad", "top"]
BEFORE_THE_CHOICE: FitPolicy = "top"  # of configurations and bundles that do not name a policy
EQUAL = 0.01  # share of the objects by which the lowest crop may be worse than the best
MAX_LOSS = 0.25  # share of the objects that a crop may lose before the whole image is kept instead

Size = tuple[int, int]  # height, width [px]


@dataclass(frozen=True, kw_only=True)
class ImageTarget:
    """What the network takes."""

    height: int  # [px]
    width: int  # [px]
    policy: FitPolicy = "horizon"
    fill: tuple[int, int, int] = (0, 0, 0)  # RGB of what an image does not cover, and of a missing camera
    margin: Size = (0, 0)  # [px] rows at the bottom and columns at the right that no image covers

    @property
    def size(self) -> Size:
        """Height and width [px]."""
        return self.height, self.width

    @property
    def covered(self) -> Size:
        """Height and width of the part that images may cover [px]."""
        return self.height - self.margin[0], self.width - self.margin[1]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Where an image goes: scaled to (rows, cols), then `top` rows cut off, then placed at the input's left top."""

    rows: int  # of the whole image after scaling [px]
    cols: int
    top: int  # rows cut off at the top [px]; what is still too high is cut off at the bottom

    def filled(self, target: ImageTarget) -> Size:
        """Rows and columns of the input that show the image [px]."""
        height, width = target.covered
        return min(self.rows - self.top, height), min(self.cols, width)

    def matrix(self, size: Size) -> np.ndarray:
        """Change (3, 3) float64 of pixel coordinates; pixel centres lie at whole numbers."""
        scale_u, scale_v = self.cols / size[1], self.rows / size[0]
        return np.array(
            [[scale_u, 0.0, 0.5 * scale_u - 0.5], [0.0, scale_v, 0.5 * scale_v - 0.5 - self.top], [0.0, 0.0, 1.0]]
        )


def fit_of(size: Size, target: ImageTarget, matrix: np.ndarray, ego_from_camera: np.ndarray) -> Fit:
    """How an image is fitted to the network's input.

    Args:
        size: Height and width of the camera's images [px].
        target: What the network takes.
        matrix: (3, 3) float64 [px], of images of `size`.
        ego_from_camera: (4, 4) float64 [m], the fixed mounting: not moved by ego motion, so that the crop stays.
    """
    height, width = target.covered
    rows = max(round(size[0] * width / size[1]), 1)
    if rows <= height or target.policy == "top":
        return Fit(rows=rows, cols=width, top=max(rows - height, 0))
    if target.policy == "pad":
        return _whole(size, target)
    return _by_objects(size, target, matrix.tobytes(), ego_from_camera.tobytes())


def shown_share(fit: Fit, size: Size, target: ImageTarget, matrix: np.ndarray, ego_from_camera: np.ndarray) -> float:
    """Share of the object points of a camera's image that the network's input shows; NaN where the image has none."""
    pixels = object_pixels(matrix, ego_from_camera, size)
    if not len(pixels):
        return float("nan")
    return float(_is_kept(_scaled_rows(pixels, fit.rows, size), fit.top, target.covered[0]).mean())


@lru_cache(maxsize=4096)
def _by_objects(size: Size, target: ImageTarget, matrix: bytes, ego_from_camera: bytes) -> Fit:
    """The crop of an image that is too high once its width fits, or the whole image."""
    height, width = target.covered
    rows = max(round(size[0] * width / size[1]), 1)
    pose = np.frombuffer(ego_from_camera).reshape(4, 4)
    pixels = object_pixels(np.frombuffer(matrix).reshape(3, 3), pose, size)
    if not len(pixels):
        return _whole(size, target)
    counts = np.bincount(_scaled_rows(pixels, rows, size), minlength=rows)
    sums = np.concatenate([[0], counts.cumsum()])
    kept = sums[height:] - sums[:-height]  # by the first row that is kept
    top = int(np.flatnonzero(kept >= kept.max() - EQUAL * len(pixels))[-1])
    if kept[top] < (1 - MAX_LOSS) * len(pixels):
        return _whole(size, target)
    return Fit(rows=rows, cols=width, top=top)


def _whole(size: Size, target: ImageTarget) -> Fit:
    """The whole image inside of the input."""
    height, width = target.covered
    rows, cols = max(round(size[0] * width / size[1]), 1), width
    if rows > height:
        rows, cols = height, max(round(size[1] * height / size[0]), 1)
    return Fit(rows=rows, cols=cols, top=0)


def _scaled_rows(pixels: np.ndarray, rows: int, size: Size) -> np.ndarray:
    """Row (P,) int64 of pixels (P, 2) once the image has `rows` rows."""
    return np.floor((pixels[:, 1] + 0.5) * rows / size[0]).astype(np.int64).clip(0, rows - 1)


def _is_kept(rows: np.ndarray, top: int, height: int) -> np.ndarray:
    return (rows >= top) & (rows < top + height)

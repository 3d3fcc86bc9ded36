"""How much of what a camera sees reaches the network, in figures: for training, export, node and doctor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.scene import FARTHEST, NEAREST, horizon_row, object_pixels
from bevdistill_ros.model.fit import Fit, ImageTarget, fit_of, shown_share

ENOUGH = 0.9  # share of the objects in a camera's image that the network should see
TOO_LITTLE = 0.5  # with less than this share it is not worth training
LEAST_SCALE = 0.6  # of the input's width that an image shown whole should fill
_ROWS = 32  # [px] image heights are multiples of it


@dataclass(frozen=True, kw_only=True)
class CameraCoverage:
    """What the network sees of one camera."""

    name: str
    size: tuple[int, int]  # height, width [px] of the camera's images
    target: ImageTarget
    fit: Fit
    share: float  # of the object points in the camera's image that the network sees; NaN where there are none
    horizon: float  # row of the network's input [px] in the middle of the image; NaN where it runs along the columns
    needed: int  # rows of an input of the same width that would show all object points [px]

    def __str__(self) -> str:
        last = min(self.fit.top + self.target.height, self.fit.rows)
        scaled = f"{self.size[1]}x{self.size[0]} scaled to {self.fit.cols}x{self.fit.rows}"
        kept = "shown whole" if last - self.fit.top == self.fit.rows else f"rows {self.fit.top} to {last - 1} kept"
        at = "" if math.isnan(self.horizon) else f", horizon at row {self.horizon:.0f} of {self.target.height}"
        return f"{scaled}, {kept}{at}"

    @property
    def problem(self) -> str:
        """What is wrong, with figures; empty where nothing is."""
        region = f"objects {NEAREST:.0f} to {FARTHEST:.0f} m away"
        if math.isnan(self.share):
            return f"{self.name} shows no {region} ({self}); check its mounting"
        if self.share < ENOUGH:
            return f"the network sees {self.share:.0%} of the {region} that {self.name} shows ({self}); {self._remedy}"
        if self.is_small:
            scale = self.size[1] / self.fit.cols
            return (
                f"{self.name} fills {self.fit.cols} of the network's {self.target.width} columns ({self}), one pixel "
                f"for {scale:.1f} of its own; {self._remedy}"
            )
        return ""

    @property
    def is_small(self) -> bool:
        """Whether the image is shown whole at a low resolution, as rows of its full width would not fit."""
        return self.target.policy == "horizon" and self.fit.cols < LEAST_SCALE * self.target.width

    @property
    def is_too_little(self) -> bool:
        """Whether the network misses most of what the camera shows of the road."""
        return self.share < TOO_LITTLE

    @property
    def _remedy(self) -> str:
        if self.target.policy == "top":
            return "retrain with --student.image_fit horizon"
        return f"train with --student.image_height {self.needed}, or mount the camera upright and level"


def coverage_of(
    names: Sequence[str],
    intrinsics: np.ndarray,
    mountings: np.ndarray,
    sizes: Sequence[tuple[int, int]],
    target: ImageTarget,
) -> list[CameraCoverage]:
    """What the network sees of each camera.

    Args:
        names: Of the N cameras.
        intrinsics: (N, 3, 3) [px] of images of the cameras' sizes.
        mountings: (N, 4, 4) ego_from_camera [m] as the cameras are fixed to the vehicle.
        sizes: Height and width [px] of each camera's images.
        target: What the network takes.
    """
    cameras = zip(names, np.asarray(intrinsics, float), np.asarray(mountings, float), sizes, strict=True)
    return [_coverage(name, matrix, pose, size, target) for name, matrix, pose, size in cameras]


def _coverage(
    name: str, matrix: np.ndarray, pose: np.ndarray, size: tuple[int, int], target: ImageTarget
) -> CameraCoverage:
    fit = fit_of(size, target, matrix, pose)
    rows = object_pixels(matrix, pose, size)[:, 1] * target.width / size[1]
    span = rows.max() - rows.min() + 1 if len(rows) else 0
    return CameraCoverage(
        name=name,
        size=size,
        target=target,
        fit=fit,
        share=shown_share(fit, size, target, matrix, pose),
        horizon=horizon_row(fit.matrix(size) @ matrix, pose, (fit.cols - 1) / 2),
        needed=max(math.ceil(span / _ROWS) * _ROWS, target.height),
    )

"""Intrinsics of one camera."""

from dataclasses import dataclass, replace

import numpy as np

from bevdistill_ros.core.rig import Rig
from bevdistill_ros.node.rig.lens import MODELS

SIZE_OF_IMAGE = (0, 0)  # a calibrated size that is not given is that of the images


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Intrinsics of one camera.

    Raises:
        ValueError: A value is not finite, the camera is not calibrated, or its lens model is unknown.
    """

    matrix: np.ndarray  # (3, 3) float64 [px], of images of `size`
    size: tuple[int, int]  # height, width [px]; SIZE_OF_IMAGE where the driver does not know it
    frame_id: str = ""  # of the optical frame
    distortion: np.ndarray | None = None  # (D,) float64 of `model`; None for a straight lens
    model: str = ""
    doubt: str = ""  # what does not fit together in it, with the remedy

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError(f"camera matrix is not finite: {matrix.ravel().tolist()}")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[2, 2] != 1:
            raise ValueError(f"camera is not calibrated: its matrix is {matrix.ravel().tolist()}")
        if min(self.size) < 1 and self.size != SIZE_OF_IMAGE:
            raise ValueError(f"calibrated image size must be positive, but is {self.size[1]}x{self.size[0]}")
        if self.distortion is None:
            return
        if not np.isfinite(self.distortion).all():
            raise ValueError(f"lens distortion is not finite: {self.distortion.tolist()}")
        if self.model not in MODELS:
            raise ValueError(f"distortion model is '{self.model}', but must be one of {', '.join(MODELS)}")
        if len(self.distortion) not in MODELS[self.model]:
            allowed = " or ".join(map(str, MODELS[self.model]))
            raise ValueError(f"{self.model} needs {allowed} coefficients, but has {len(self.distortion)}")

    def __str__(self) -> str:
        lens = self.model if self.distortion is not None else "no distortion"
        size = f"{self.size[1]}x{self.size[0]}" if self.size != SIZE_OF_IMAGE else "size of the images"
        return f"{size}, focal length {self.matrix[0, 0]:.0f} px, {lens}"

    def same_as(self, other: "Calibration | None") -> bool:
        """Whether another calibration holds the same numbers."""
        return other is not None and self._key() == other._key()

    def of_image(self, image: np.ndarray) -> "Calibration":
        """The same, with the size of an image (h, w, 3) where it has none of its own."""
        return replace(self, size=(image.shape[0], image.shape[1])) if self.size == SIZE_OF_IMAGE else self

    def check_aspect(self, size: tuple[int, int]) -> None:
        """Whether an image of height and width `size` [px] can be one of this camera at some scale.

        Raises:
            ValueError: Its aspect is another.
        """
        rows, cols = size
        # A decoder that halves rounds odd sizes up, so each side may be off by up to one pixel.
        if abs(rows * self.size[1] - cols * self.size[0]) > max(self.size):
            raise ValueError(
                f"image of {cols}x{rows} has another aspect than its calibration, {self.size[1]}x{self.size[0]}"
            )

    def matrix_at(self, size: tuple[int, int]) -> np.ndarray:
        """Camera matrix (3, 3) of an image scaled to height and width `size`; pixel centres lie at whole numbers."""
        scale_v, scale_u = size[0] / self.size[0], size[1] / self.size[1]
        change = np.array([[scale_u, 0, 0.5 * scale_u - 0.5], [0, scale_v, 0.5 * scale_v - 0.5], [0, 0, 1]])
        return np.asarray(change @ self.matrix)

    def _key(self) -> tuple[object, ...]:
        lens = None if self.distortion is None else self.distortion.tobytes()
        return self.matrix.tobytes(), self.size, self.frame_id, lens, self.model


def calibrations_of(rig: Rig) -> dict[str, Calibration]:
    """Intrinsics of a rig, camera by camera."""
    return {
        name: Calibration(matrix=matrix.double().numpy(), size=size)
        for name, matrix, size in zip(rig.names, rig.intrinsics, rig.image_sizes, strict=True)
    }

"""Intrinsics from CameraInfo, mountings from a rig file, lens distortion, and likeness to the rig of training."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

MODELS: dict[str, tuple[int, ...]] = {  # distortion models and how many coefficients they may have
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
NOT_YET = "no camera_info yet"
REFRESH_PERIOD_S = 0.002  # between two looks for what has come


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Intrinsics of one camera.

    Raises:
        ValueError: A value is not finite, the camera is not calibrated, or its lens model is unknown.
    """

    matrix: np.ndarray  # (3, 3) float64 [px], of images of `size`
    size: tuple[int, int]  # height, width [px]
    frame_id: str = ""  # of the optical frame
    distortion: np.ndarray | None = None  # (D,) float64 of `model`; None for a straight lens
    model: str = ""

    def __post_init__(self) -> None:
        matrix = self.matrix
        if matrix.shape != (3, 3) or not np.isfinite(matrix).all():
            raise ValueError(f"camera matrix is not finite: {matrix.ravel().tolist()}")
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0 or matrix[2, 2] != 1:
            raise ValueError(f"camera is not calibrated: its matrix is {matrix.ravel().tolist()}")
        if min(self.size) < 1:
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
        return f"{self.size[1]}x{self.size[0]}, focal length {self.matrix[0, 0]:.0f} px, {lens}"

    def same_as(self, other: "Calibration | None") -> bool:
        """Whether another calibration holds the same numbers."""
        return other is not None and self._key() == other._key()

    def check_aspect(self, image: np.ndarray) -> None:
        """Whether an image (h, w, 3) can be one of this camera at some scale.

        Raises:
            ValueError: Its aspect is another.
        """
        rows, cols = image.shape[:2]
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


class CalibrationStore:
    """The newest calibration of each camera; safe to use from several threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._entries: dict[str, Calibration | str] = {}
        self._waited_for: set[str] = set()
        self.refresh: Callable[[], None] = lambda: None  # called before use; may put what has come meanwhile

    def put(self, camera: str, calibration: Calibration) -> None:
        """A camera told its calibration."""
        with self._condition:
            self._entries[camera] = calibration
            self._condition.notify_all()

    def refuse(self, camera: str, reason: str) -> None:
        """A camera told a calibration that cannot be used; its images cannot be used until it tells a better one."""
        with self._condition:
            self._entries[camera] = reason
            self._condition.notify_all()

    def get(self, camera: str) -> Calibration:
        """Calibration of a camera.

        Raises:
            ValueError: It told none, or one that cannot be used.
        """
        with self._condition:
            entry = self._entries.get(camera, NOT_YET)
        if isinstance(entry, str):
            raise ValueError(entry)
        return entry

    def described(self, cameras: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Usable calibrations of cameras in words, and why the others are not usable."""
        self.refresh()
        with self._condition:
            entries = {name: self._entries.get(name, NOT_YET) for name in cameras}
        usable = {name: str(entry) for name, entry in entries.items() if isinstance(entry, Calibration)}
        return usable, {name: entry for name, entry in entries.items() if isinstance(entry, str)}

    def wait_for(self, cameras: Sequence[str], timeout_s: float) -> None:
        """Wait until all these cameras have told a calibration; each is waited for in vain but once."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.refresh()  # without the lock, as others that refresh may put
            with self._condition:
                missing = [name for name in cameras if name not in self._entries]
                left = deadline - time.monotonic()
                if self._waited_for.issuperset(missing) or left <= 0:
                    self._waited_for.update(missing)
                    return
                self._condition.wait(min(left, REFRESH_PERIOD_S))

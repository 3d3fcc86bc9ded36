"""Images without lens distortion."""

import cv2
import numpy as np

from bevdistill_ros.node.rig.calibration import Calibration


class Rectifier:
    """Straightens the images of one camera; the maps are made once for a calibration and image size."""

    def __init__(self) -> None:
        self._calibration: Calibration | None = None
        self._size: tuple[int, int] = (0, 0)
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def rectify(self, image: np.ndarray, calibration: Calibration) -> np.ndarray:
        """Image (h, w, 3) as a straight lens with the same matrix sees it; the very same array where it is straight."""
        if calibration.distortion is None:
            return image
        size = (image.shape[0], image.shape[1])
        if self._maps is None or size != self._size or not calibration.same_as(self._calibration):
            self._maps = _undistortion_maps(calibration, size)
            self._calibration, self._size = calibration, size
        return np.asarray(cv2.remap(image, *self._maps, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _undistortion_maps(calibration: Calibration, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    matrix = calibration.matrix_at(size)
    lens = calibration.distortion
    assert lens is not None
    build = cv2.fisheye.initUndistortRectifyMap if calibration.model == "equidistant" else cv2.initUndistortRectifyMap
    first, second = build(matrix, lens, np.eye(3), matrix, (size[1], size[0]), cv2.CV_16SC2)
    return np.asarray(first), np.asarray(second)

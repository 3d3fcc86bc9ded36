"""What the matrices of a camera_info mean for the images beside it: raw ones have K and D, rectified ones P alone."""

from dataclasses import dataclass

import numpy as np

from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.lens import lens_of

SAME_MATRIX = 0.02  # relative difference of focal lengths, or of the centre to the focal length, that rounding explains
_RECTIFIED_NAMES = ("image_rect", "rectified")  # in a topic: image_proc and most others name their results so
_SET = "if they are rectified, set images_rectified"


@dataclass(frozen=True, kw_only=True, eq=False)
class CameraInfoMatrices:
    """The part of a camera_info that describes the lens."""

    k: np.ndarray  # (3, 3) float64 [px], of raw images
    p: np.ndarray  # (3, 3) float64 [px], of rectified images: the left part of P
    d: np.ndarray  # (D,) float64
    model: str  # of the distortion, as it is named


def read_calibration(
    given: CameraInfoMatrices, *, size: tuple[int, int], frame_id: str, rectified: bool, image_topic: str
) -> Calibration:
    """Intrinsics of the images of a topic.

    Args:
        given: The matrices.
        size: Calibrated height and width [px], (0, 0) where it is not known.
        frame_id: Frame of the camera.
        rectified: Whether the images are rectified.
        image_topic: Their topic; empty where it is not known.

    Raises:
        ValueError: The camera is not calibrated, or what is meant is not certain.
    """
    if rectified:
        matrix = given.k if not given.p.any() and not given.d.any() else given.p
        if not matrix.any():
            raise ValueError("images_rectified takes P of camera_info, which is zero; fill P, or rectify the images")
        return Calibration(matrix=matrix, size=size, frame_id=frame_id, doubt=_doubt_of_rectified(given, image_topic))
    model, distortion = lens_of(given.model, given.d)
    matrix = given.k
    if not matrix.any() and given.p.any():
        # Without distortion nothing distinguishes raw images from rectified ones but the matrix that is there.
        if distortion is not None:
            raise ValueError(f"camera_info has P, but K is zero, so its images can only be rectified; {_SET}")
        matrix = given.p
    doubt = _doubt_of_raw(given, distortion, image_topic)
    return Calibration(matrix=matrix, size=size, frame_id=frame_id, distortion=distortion, model=model, doubt=doubt)


def is_rectified_name(topic: str) -> bool:
    """Whether a topic's name says that its images are rectified."""
    return any(word in topic.lower() for word in _RECTIFIED_NAMES)


def _doubt_of_raw(given: CameraInfoMatrices, distortion: np.ndarray | None, image_topic: str) -> str:
    """Why images that are taken as raw may be rectified; empty where nothing says so."""
    if distortion is not None and is_rectified_name(image_topic):
        return f"{image_topic} is named as rectified, but lens distortion is removed from its images again; {_SET}"
    if distortion is None and given.k.any() and given.p.any() and _differ(given.k, given.p):
        focal = f"focal length {given.k[0, 0]:.0f} px in K, {given.p[0, 0]:.0f} px in P"
        return f"camera_info has no distortion, but P is another matrix than K ({focal}); {_SET}"
    return ""


def _doubt_of_rectified(given: CameraInfoMatrices, image_topic: str) -> str:
    """Why images that are taken as rectified may be raw; empty where nothing says so."""
    if "image_raw" in image_topic and given.d.any():
        return f"{image_topic} is named as raw, but images_rectified is set, so lens distortion stays in; unset it"
    return ""


def _differ(first: np.ndarray, second: np.ndarray) -> bool:
    focal = abs(float(first[0, 0])) or 1.0
    return bool(np.abs(first[:2] - second[:2]).max() > SAME_MATRIX * focal)

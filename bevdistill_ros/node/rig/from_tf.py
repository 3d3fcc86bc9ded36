"""Mountings and ego motion from tf."""

from typing import Any

import numpy as np


class Patience:
    """Waits for transforms that come after the images; not again while one that was waited for is still not there.

    Args:
        transforms: What tf knows; `Transforms`, or whatever has its methods.
    """

    def __init__(self, transforms: Any) -> None:
        self._transforms = transforms
        self._in_vain: dict[tuple[str, str], int] = {}  # stamp that was not reached [ns], by frames

    def wait_for(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until tf knows a transform at a stamp; False where it does not within the time."""
        missing = self._in_vain.get((target, source))
        if missing is not None and not self._transforms.wait_for(target, source, missing, 0.0):
            return bool(self._transforms.wait_for(target, source, stamp_ns, 0.0))
        reached = bool(self._transforms.wait_for(target, source, stamp_ns, timeout_s))
        self._in_vain.pop((target, source), None)
        if not reached:
            self._in_vain[target, source] = stamp_ns
        return reached


class TfMountings:
    """Mountings from tf, looked up at each image's stamp.

    Args:
        transforms: What tf knows; `Transforms`, or whatever has its methods.
        base_frame: Frame of the ego vehicle.
        max_wait_s: Longest wait for the mounting of a camera that moves on the vehicle [s].
    """

    def __init__(self, transforms: Any, base_frame: str, *, max_wait_s: float) -> None:
        self._transforms = transforms
        self._patience = Patience(transforms)
        self._base_frame = base_frame
        self._max_wait_s = max_wait_s

    def ego_from_camera(self, camera: str, frame_id: str, stamp_ns: int) -> np.ndarray:
        """Mounting (4, 4) of a camera by its frame."""
        if not frame_id:
            raise ValueError(
                f"neither camera_info nor image of {camera} names a frame, so tf cannot place it; set header.frame_id"
            )
        self._patience.wait_for(self._base_frame, frame_id, stamp_ns, self._max_wait_s)
        return np.asarray(self._transforms.lookup(self._base_frame, frame_id, stamp_ns))


class TfMotion:
    """Ego motion from tf.

    Args:
        transforms: What tf knows; `Transforms`, or whatever has its methods.
        odom_frame: Frame that does not move.
        base_frame: Frame of the ego vehicle.
    """

    def __init__(self, transforms: Any, odom_frame: str, base_frame: str) -> None:
        self._transforms = transforms
        self._patience = Patience(transforms)
        self._odom_frame = odom_frame
        self._base_frame = base_frame

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) at a stamp, None where tf does not know it."""
        try:
            return np.asarray(self._transforms.lookup(self._odom_frame, self._base_frame, stamp_ns))
        except ValueError:
            return None

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until tf reaches a stamp."""
        return self._patience.wait_for(self._odom_frame, self._base_frame, stamp_ns, timeout_s)

    def forget_after(self, stamp_ns: int) -> None:
        """Forget everything that moves; tf cannot forget a part."""
        self._transforms.clear()

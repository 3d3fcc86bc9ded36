"""Mountings and ego motion from tf."""

from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import interpolate_poses
from bevdistill_ros.node.rig.mountings import MOUNTING_TOLERANCE

LOOK_BACK_NS = tuple(round(seconds * 1e9) for seconds in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0))
STEP_NS = 10_000_000  # by which the end of what tf knows is searched


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

    Mountings are fixed, but not all come on /tf_static: what repeats them on /tf is always a little behind the images.
    Where tf does not reach the stamp, a mounting that has not changed of late is taken as it was.

    Args:
        transforms: What tf knows; `Transforms`, or whatever has its methods.
        base_frame: Frame of the ego vehicle.
        max_wait_s: Longest wait for the mounting of a camera that moves on the vehicle [s].
    """

    def __init__(self, transforms: Any, base_frame: str, *, max_wait_s: float) -> None:
        self._transforms = transforms
        self._patience = Patience(transforms)
        self._base_frame = base_frame.lstrip("/")
        self._max_wait_s = max_wait_s
        self._at_rest: set[str] = set()  # frames that are not waited for

    def ego_from_camera(self, camera: str, frame_id: str, stamp_ns: int) -> np.ndarray:
        """Mounting (4, 4) of a camera by its frame."""
        frame = frame_id.lstrip("/")
        if not frame:
            raise ValueError(
                f"neither camera_info nor image of {camera} names a frame, so tf cannot place it; set header.frame_id"
            )
        if frame not in self._at_rest:
            self._patience.wait_for(self._base_frame, frame, stamp_ns, self._max_wait_s)
        try:
            return np.asarray(self._transforms.lookup(self._base_frame, frame, stamp_ns))
        except ValueError:
            fixed = self._unchanged_before(frame, stamp_ns)
            if fixed is not None:
                self._at_rest.add(frame)
                return fixed
            if frame not in self._at_rest:
                raise
        self._at_rest.remove(frame)  # it moves, so its time is worth waiting for
        return self.ego_from_camera(camera, frame, stamp_ns)

    def _unchanged_before(self, frame: str, stamp_ns: int) -> np.ndarray | None:
        """The mounting shortly before a stamp, where it was the same before that; None where it is not known."""
        found = [
            np.asarray(known)
            for back in LOOK_BACK_NS
            if (known := _known(self._transforms, self._base_frame, frame, stamp_ns - back)) is not None
        ]
        same = all(np.abs(known - found[0]).max() <= MOUNTING_TOLERANCE for known in found)
        return found[0] if len(found) > 1 and same else None


class TfMotion:
    """Ego motion from tf, extrapolated where it does not reach a stamp.

    Args:
        transforms: What tf knows; `Transforms`, or whatever has its methods.
        odom_frame: Frame that does not move.
        base_frame: Frame of the ego vehicle.
        max_extrapolation_s: Stamps further beyond what is known have no pose [s].
    """

    def __init__(self, transforms: Any, odom_frame: str, base_frame: str, *, max_extrapolation_s: float = 0.0) -> None:
        self._transforms = transforms
        self._patience = Patience(transforms)
        self._odom_frame = odom_frame.lstrip("/")
        self._base_frame = base_frame.lstrip("/")
        self._max_extrapolation = round(max_extrapolation_s * 1e9)

    def odom_from_ego(self, stamp_ns: int) -> np.ndarray | None:
        """Pose (4, 4) at a stamp, None where tf does not know it."""
        known = self._at(stamp_ns)
        lag = self.lag_ns(stamp_ns) if known is None else 0
        if not lag:
            return known
        newest = stamp_ns - lag
        baseline = max(lag, STEP_NS)
        before, last = self._at(newest - baseline), self._at(newest)
        return None if before is None or last is None else interpolate_poses(before, last, 1 + lag / baseline)

    def twist_at(self, stamp_ns: int) -> np.ndarray | None:
        """Not known: tf holds poses."""
        return None

    def lag_ns(self, stamp_ns: int) -> int:
        """How far a stamp lies beyond what tf knows [ns], in steps; 0 where it does not, or too far."""
        if self._at(stamp_ns) is not None:
            return 0
        steps = range(STEP_NS, self._max_extrapolation + 1, STEP_NS)
        return next((back for back in steps if self._at(stamp_ns - back) is not None), 0)

    def wait_for(self, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until tf reaches a stamp."""
        return self._patience.wait_for(self._odom_frame, self._base_frame, stamp_ns, timeout_s)

    def forget_after(self, stamp_ns: int) -> None:
        """Forget everything that moves; tf cannot forget a part."""
        self._transforms.clear()

    def _at(self, stamp_ns: int) -> np.ndarray | None:
        return _known(self._transforms, self._odom_frame, self._base_frame, stamp_ns)


def _known(transforms: Any, target: str, source: str, stamp_ns: int) -> np.ndarray | None:
    """Transform (4, 4) at a stamp; None where tf does not know it."""
    if stamp_ns < 0:
        return None
    try:
        return np.asarray(transforms.lookup(target, source, stamp_ns))
    except ValueError:
        return None

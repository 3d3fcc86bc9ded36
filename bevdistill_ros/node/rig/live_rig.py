"""The cameras of the vehicle as they are now: intrinsics and mountings, and whether they changed."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.node.rig.calibration import Calibration, calibrations_of
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.rig.mountings import MOUNTING_TOLERANCE, Mountings

CalibratedCamera = tuple[Calibration, np.ndarray]  # intrinsics, and mounting ego_from_camera (4, 4) [m]


class LiveRig:
    """Calibrated cameras at the stamps of their images.

    Args:
        cameras: Camera names, in the order of the model's cameras.
        training: Rig of training, in that order.
        calibrations: Intrinsics as they come in.
        mountings: Where the cameras sit.
        on_fault: Called with a camera and why it cannot be used.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        training: CameraRig,
        *,
        calibrations: CalibrationStore,
        mountings: Mountings,
        on_fault: Callable[[str, str], None],
    ) -> None:
        self._cameras = tuple(cameras)
        self._calibrations = calibrations
        self._mountings = mountings
        self._on_fault = on_fault
        # Of a blank camera the network sees nothing, but a rig has no gaps: the training rig fills them.
        self._filling: list[CalibratedCamera] = list(
            zip(calibrations_of(training).values(), training.ego_from_camera.double().numpy(), strict=True)
        )
        self._last: list[CalibratedCamera | None] = [None] * len(self._cameras)
        self._is_new = False

    def at(self, headers: Mapping[str, tuple[int, str]], timeout_s: float) -> list[CalibratedCamera | None]:
        """Each camera at the stamp of its image; None where it has no image or is not known.

        Args:
            headers: Stamp [ns] and frame of the images there are, by camera.
            timeout_s: Longest wait for calibrations.
        """
        self._calibrations.wait_for(list(headers), timeout_s)
        return [self._camera_at(name, *headers[name]) if name in headers else None for name in self._cameras]

    def update(self, rig: Sequence[CalibratedCamera | None]) -> bool:
        """Remember the newest state of each camera; returns whether one was turned, moved or exchanged."""
        pairs = [(old, new) for old, new in zip(self._last, rig, strict=True) if old is not None and new is not None]
        changed = any(
            not old[0].same_as(new[0]) or np.abs(old[1] - new[1]).max() > MOUNTING_TOLERANCE for old, new in pairs
        )
        self._is_new |= changed or len(pairs) < sum(entry is not None for entry in rig)
        self._last = [new or old for old, new in zip(self._last, rig, strict=True)]
        return changed

    def filled(self, rig: Sequence[CalibratedCamera | None]) -> list[CalibratedCamera]:
        """The same with each gap filled: as the camera was before, else as in training."""
        return [now or before or filling for now, before, filling in zip(rig, self._last, self._filling, strict=True)]

    def take_new(self) -> list[CalibratedCamera] | None:
        """All cameras, once after each change; None otherwise, or as long as one of them is not known."""
        known = [entry for entry in self._last if entry is not None]
        if not self._is_new or len(known) < len(self._last):
            return None
        self._is_new = False
        return known

    def _camera_at(self, name: str, stamp_ns: int, image_frame: str) -> CalibratedCamera | None:
        try:
            calibration = self._calibrations.get(name)
            # Drivers fill the frame of the image more often than that of the calibration.
            mounting = self._mountings.ego_from_camera(name, calibration.frame_id or image_frame, stamp_ns)
        except ValueError as error:
            self._on_fault(name, str(error))
            return None
        if calibration.doubt:
            self._on_fault(name, calibration.doubt)
        return calibration, mounting

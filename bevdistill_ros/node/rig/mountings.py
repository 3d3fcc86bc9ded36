"""Where the cameras sit on the vehicle."""

from typing import Protocol

import numpy as np

from bevdistill_ros.core.rig import Rig

MOUNTING_TOLERANCE = 1e-3  # [m, and sine of an angle] mountings that change by more are a change of the rig


class Mountings(Protocol):
    """Where the cameras sit on the vehicle."""

    def ego_from_camera(self, camera: str, frame_id: str, stamp_ns: int) -> np.ndarray:
        """Mounting (4, 4) float64 [m] of a camera at a stamp.

        Raises:
            ValueError: It is not known.
        """


class RigMountings:
    """Mountings of a rig file.

    Args:
        rig: The rig.
    """

    def __init__(self, rig: Rig) -> None:
        self._mountings = dict(zip(rig.names, rig.ego_from_camera.double().numpy(), strict=True))

    def ego_from_camera(self, camera: str, frame_id: str, stamp_ns: int) -> np.ndarray:
        """Mounting (4, 4) of a camera."""
        return self._mountings[camera]

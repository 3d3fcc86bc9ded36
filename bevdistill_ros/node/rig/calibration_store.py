"""The newest calibration of each camera."""

import threading
from collections.abc import Callable, Iterable, Sequence

from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.waiting import REAL_TIME, Waiting

NOT_YET = "no camera_info yet"

CalibrationSource = Callable[[], Iterable[tuple[str, Calibration | str]]]
"""Gives what is new: cameras, each with its calibration or with the reason why it cannot be used."""


class CalibrationStore:
    """The newest calibration of each camera; safe to use from several threads.

    Args:
        source: Asked before each use.
        time: In which calibrations are waited for.
    """

    def __init__(self, source: CalibrationSource, time: Waiting = REAL_TIME) -> None:
        self._source = source
        self._time = time
        self._lock = threading.Lock()
        self._entries: dict[str, Calibration | str] = {}
        self._waited_for: set[str] = set()

    def get(self, camera: str) -> Calibration:
        """Calibration of a camera.

        Raises:
            ValueError: There is none, or the newest cannot be used.
        """
        entry = self._newest().get(camera, NOT_YET)
        if isinstance(entry, str):
            raise ValueError(entry)
        return entry

    def described(self, cameras: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Usable calibrations of cameras in words, and why the others are not usable."""
        newest = self._newest()
        entries = {name: newest.get(name, NOT_YET) for name in cameras}
        usable = {name: str(entry) for name, entry in entries.items() if isinstance(entry, Calibration)}
        return usable, {name: entry for name, entry in entries.items() if isinstance(entry, str)}

    def wait_for(self, cameras: Sequence[str], timeout_s: float) -> None:
        """Wait until all these cameras have a calibration; a camera is waited for in vain only once."""

        def missing() -> set[str]:
            return set(cameras) - set(self._newest())

        if not self._time.until(lambda: missing() <= self._waited_for, timeout_s):
            self._waited_for |= missing()

    def _newest(self) -> dict[str, Calibration | str]:
        with self._lock:  # also around the source, so that an older calibration cannot replace a newer one
            self._entries.update(self._source())
            return dict(self._entries)

"""Cameras that are stamped by another clock than the others."""

from statistics import median

OTHER_CLOCK_S = 1.0  # [s] no camera is so much later than the others
PATIENCE = 3  # images in a row that must be off: while a recording starts again some stamps have gone back, others not
TAI_S = (36.5, 37.5)  # [s] by which TAI, the time of PTP, is ahead of UTC


class ClockWatch:
    """Compares when the images of each camera are stamped with when they come."""

    def __init__(self) -> None:
        self._offsets: dict[str, float] = {}  # of the newest stamp from the arrival [s], by camera
        self._counts: dict[str, int] = {}

    def check(self, camera: str, stamp_ns: int, arrived_s: float) -> str:
        """What is wrong with the stamps of a camera, with the remedy; empty where nothing is known to be.

        Args:
            camera: Its name.
            stamp_ns: Stamp of its newest image [ns].
            arrived_s: When that came, on any steady clock [s].
        """
        if stamp_ns <= 0:
            return "its stamps are 0, so that it fits no other camera; let its driver fill header.stamp"
        offset = self._offsets[camera] = stamp_ns / 1e9 - arrived_s
        others = [known for name, known in self._offsets.items() if name != camera]
        apart = [offset - known for known in others if abs(offset - known) > OTHER_CLOCK_S]
        self._counts[camera] = self._counts.get(camera, 0) + 1 if 2 * len(apart) > len(others) else 0
        if self._counts[camera] < PATIENCE:
            return ""
        ahead = median(apart)
        way = "ahead of" if ahead > 0 else "behind"
        hint = " (TAI is 37 s ahead of UTC)" if TAI_S[0] <= abs(ahead) <= TAI_S[1] else ""
        return (
            f"its stamps are {abs(ahead):.1f} s {way} those of the other cameras{hint}; "
            "synchronise its clock (chrony, ptp4l, phc2sys)"
        )

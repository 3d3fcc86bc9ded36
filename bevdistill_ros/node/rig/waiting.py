"""Waiting for what comes without waking anybody."""

import time
from collections.abc import Callable
from typing import Protocol

POLL_PERIOD_S = 0.002


class Waiting(Protocol):
    """The time in which something is waited for; of a node it passes, of a bag that is read it is read on."""

    def now_s(self) -> float:
        """A steady time [s]."""

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition holds; returns whether it does within the time [s]."""


class RealTime:
    """Time that passes by itself."""

    def now_s(self) -> float:
        """The time of `time.monotonic`."""
        return time.monotonic()

    def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Poll until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, POLL_PERIOD_S))
        return True


REAL_TIME = RealTime()

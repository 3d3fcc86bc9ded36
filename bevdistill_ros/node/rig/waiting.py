"""Waiting for what comes without waking anybody."""

import time
from collections.abc import Callable

POLL_PERIOD_S = 0.002


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until a condition holds; returns whether it does within the time [s]."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, POLL_PERIOD_S))
    return True

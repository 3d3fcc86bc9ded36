"""Other work on the machine, as a vehicle's computer always has."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_WORK = "while True: pass"


@contextmanager
def busy_cores() -> Iterator[int]:
    """Within it, one process per core that this one may use computes without pause; gives their number."""
    count = len(os.sched_getaffinity(0))
    processes = [subprocess.Popen([sys.executable, "-c", _WORK]) for _ in range(count)]
    try:
        yield count
    finally:
        for process in processes:
            process.kill()
            process.wait()

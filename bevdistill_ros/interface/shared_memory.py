"""Shared-memory segments of Fast DDS that killed processes left: 140 MB each with our profile.

Fast DDS keeps an exclusive lock on `<segment>_el` as long as the owner of a segment lives, whatever container it runs
in, and removes both files when it ends in order. A segment whose lock is free belongs to nobody.
"""

import fcntl
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MIN_AGE_S = 5.0  # a lock file is made a moment before it is locked
_LOCK = re.compile(r"(fast(?:dds|rtps)_[0-9a-f]{16})_el")
_MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """Segments that were removed."""

    count: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.count} shared-memory segments ({self.num_bytes / _MB:.0f} MB) that killed processes left"


def remove_leftovers(folder: Path = SHARED_MEMORY, *, min_age_s: float = MIN_AGE_S) -> Leftovers:
    """Remove the segments of this user that no process holds; those that cannot be removed stay."""
    count = num_bytes = 0
    for lock in sorted(folder.glob("fast*_el")):
        found = _LOCK.fullmatch(lock.name)
        size = _remove(folder / found[1], lock, min_age_s) if found else None
        if size is not None:
            count, num_bytes = count + 1, num_bytes + size
    return Leftovers(count=count, num_bytes=num_bytes)


def _remove(segment: Path, lock: Path, min_age_s: float) -> int | None:
    """Remove a segment and its lock; its size [bytes], or None where it is in use or not ours."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if status.st_uid != os.getuid() or time.time() - status.st_ctime < min_age_s:
            return None
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        size = segment.lstat().st_size if segment.exists() else 0
        segment.unlink(missing_ok=True)
        lock.unlink()
        return size
    except OSError:  # held, or removed by another that cleans up
        return None
    finally:
        os.close(handle)

"""Folders that one process at a time writes to."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing, for this process; the lock ends with the process at the latest.

    Raises:
        ValueError: Another process holds it.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ValueError(
                f"{folder} is in use by another process; wait for its end or choose another one"
            ) from error
        if _is_still(handle, folder):
            break
        os.close(handle)  # removed between the two steps
    try:
        yield
    finally:
        os.close(handle)


def _is_still(handle: int, folder: Path) -> bool:
    """Whether an open folder is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False

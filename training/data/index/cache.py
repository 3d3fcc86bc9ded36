"""The index on disk: plain npz arrays, found by what the tables look like."""

import fcntl
import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from bevdistill_ros.core.files import atomic_file, user_cache

FORMAT = 4  # raise it whenever an array of the index changes its meaning

_log = logging.getLogger(__name__)


def cache_path(root: Path, version: str, num_sweeps: int, cache_dir: Path | None, *facts: str) -> Path:
    """Where the index of these tables is cached: any change of a table's size or time gives another name.

    So does any change of the further facts on which it depends. Without a `cache_dir` this is `.bevdistill_cache` in
    `root`, or, where `root` is read-only, a folder of the user's cache.
    """
    tables = [(path.name, path.stat()) for path in sorted((root / version).glob("*.json"))]
    content = [(name, status.st_size, status.st_mtime_ns) for name, status in tables]
    digest = hashlib.sha256(repr((FORMAT, content, facts)).encode()).hexdigest()[:16]
    return (cache_dir or _default_folder(root)) / f"index-{version}-{num_sweeps}-{digest}.npz"


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """Read the cached arrays; None where there are none, or where the file is damaged and must be made again."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        _log.warning("The cached index %s is damaged (%s); it is built again.", path, error)
        return None


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the cache in one step, so that a reader or an interruption never meets half a file.

    A folder that cannot be written costs the next start some time, so it is a warning, no error.
    """
    try:
        with atomic_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        _log.warning("The index is not cached (%s); set data.cache_dir to a folder that can be written.", error)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process after the other make what belongs at a path, so that those that waited find it made.

    Where the folder or its file system has no locks, all of them make it.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _default_folder(root: Path) -> Path:
    # Root may write everywhere, so the mode shows whether the owner means the data to be read-only.
    if os.access(root, os.W_OK) and root.stat().st_mode & 0o222:
        return root / ".bevdistill_cache"
    return user_cache() / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]

"""Files that a user names: checked before they are read, so that none can block the process or fill its memory."""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_HERE = -100  # AT_FDCWD of renameat2: paths as they are
_RENAME_EXCHANGE = 2
_WRITE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def read_text(path: Path | str, *, what: str, max_bytes: int) -> str:
    """Content of an ordinary, not too large UTF-8 file.

    Args:
        path: The file; `~` is the home folder.
        what: What it should be, for messages.
        max_bytes: Largest size.

    Raises:
        ValueError: There is no such file, it is a folder, device or pipe, it is too large, or it is not text.
    """
    path = Path(path).expanduser()
    try:
        if path.exists() and not path.is_file():  # reading a pipe would block, and a device never ends
            raise ValueError(f"{what} '{path}' is not an ordinary file")
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{what} '{path}' cannot be read: {reason}") from error
    if len(content) > max_bytes:
        raise ValueError(f"{what} '{path}' is larger than {max_bytes / 1e6:g} MB, which no {what} is")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} '{path}' is not text: {error.reason} at byte {error.start}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 text file with `atomic_file`; its folder is made."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def user_cache() -> Path:
    """Folder of the user's cache for this project; it may not be there yet, and may not be writable."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "bevdistill"


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """A file that appears complete or not at all.

    The block writes the file that it is given, which lies in the same folder (made where missing); when the block ends,
    that file replaces `path`, readable as the umask says. When it fails, nothing is left of it and `path` is as before.

    Args:
        path: The file to make or to replace.

    Yields:
        Where to write.

    Raises:
        OSError: It cannot be written (full disk, read-only folder, no right); one line with path and reason, also where
            a library reported it in its own way.
    """
    path = Path(path)
    with _write_errors(path), _partial_of(path, lambda partial: partial.touch(exist_ok=False)) as partial:
        mode = partial.stat().st_mode & 0o777  # some libraries write files that only their owner can read
        yield partial
        partial.chmod(mode)
        os.replace(partial, path)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """A folder that appears complete or not at all; the same as `atomic_file` for a folder with all in it.

    A folder that is there already is replaced in one step. Where the file system can't exchange two names, it takes two
    steps, and a kill between them leaves the old folder as `.<name>.partial.old` until the next one is written.

    Args:
        path: The folder to make or to replace.

    Yields:
        An empty folder to write to.

    Raises:
        OSError: As in `atomic_file`.
    """
    path = Path(path)
    with _write_errors(path), _partial_of(path, Path.mkdir) as partial:
        yield partial
        mode = partial.stat().st_mode & 0o777
        for inside in partial.rglob("*"):
            if not inside.is_symlink():
                inside.chmod(mode if inside.is_dir() else mode & 0o666)
        replace_folder(partial, path)


@contextmanager
def _partial_of(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """What becomes a path: made, locked, and removed in the end where it has not got its final name.

    `.<name>.partial`, so that what a killed process left is removed by the next; a random name where another process
    holds that one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    remove_leftover(partial)
    try:
        make(partial)
    except FileExistsError:
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
        make(partial)
    lock = _lock(partial)  # None as well where the file system has no locks
    try:
        yield partial
    finally:
        _remove(partial)
        if lock is not None:
            os.close(lock)


def _lock(path: Path) -> int | None:
    """An open handle that holds a file or folder; None where another process holds it, or it is no longer there."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), path.stat()):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def remove_leftover(partial: Path) -> None:
    """Remove an unfinished file or folder that no process holds any more."""
    if partial.is_symlink() or (lock := _lock(partial)) is None:
        return
    _remove(partial)
    os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def replace_folder(partial: Path, path: Path) -> None:
    """Give a folder its final name, in one step where the file system can; what had that name takes the other."""
    old = path.with_name(f".{path.name}.partial.old")
    if not path.exists():
        os.rename(partial, path)
    elif not _exchange(partial, path):
        _remove(old)  # of a process that was killed before it did so itself
        os.rename(path, old)
        os.rename(partial, path)
    _remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders; False where the system or the file system can't."""
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux only
    return exchange is not None and not exchange(_HERE, bytes(first), _HERE, bytes(second), _RENAME_EXCHANGE)


@contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Report what keeps a block from writing to a path's folder as one OSError; other errors pass."""
    try:
        yield
    except ValueError:  # has its own words
        raise
    except Exception as error:
        number = _write_error_of(error, path.parent)
        if number is None:
            raise
        failure = OSError(f"cannot write {path}: {os.strerror(number)}; free space there or choose another place")
        failure.errno = number
        raise failure from error


def _write_error_of(error: BaseException | None, folder: Path) -> int | None:
    """Number of the failure to write to a folder, which libraries may hide in a cause or in their text."""
    while error is not None:
        number, place = getattr(error, "errno", None), getattr(error, "filename", None)
        if found := re.search(r"os error (\d+)", str(error)):  # safetensors
            number = int(found[1])
        if number in _WRITE_ERRORS and (not isinstance(place, str) or Path(place).is_relative_to(folder)):
            return number
        error = error.__cause__ or error.__context__
    return None

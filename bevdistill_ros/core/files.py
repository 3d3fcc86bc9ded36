"""Files that a user names: read only where they are what they should be, so that none can hang or fill the vehicle."""

import os
from pathlib import Path


def read_text(path: Path | str, *, what: str, max_bytes: int) -> str:
    """Content of an ordinary, not too large UTF-8 file.

    Args:
        path: The file; `~` is the home folder.
        what: What it should be, for messages.
        max_bytes: Largest size.

    Raises:
        ValueError: There is no such file, it is a folder, device or pipe, it is too large, or it is no text.
    """
    path = Path(path).expanduser()
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, and a device never ends
            raise ValueError(f"{what} '{path}' is no ordinary file")
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{what} '{path}' cannot be read: {reason}") from error
    if len(content) > max_bytes:
        raise ValueError(f"{what} '{path}' is larger than {max_bytes / 1e6:g} MB; it is no {what}")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} '{path}' is no text: {error.reason} at byte {error.start}") from error


def write_whole(path: Path, text: str) -> None:
    """Write a text file; its folder is made, and the file that was there stays until the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)

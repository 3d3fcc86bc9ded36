"""Bags that appear complete or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rosbags.rosbag2 import StoragePlugin, Writer

from bevdistill_ros.core.files import atomic_folder

BAG_VERSION: Literal[8] = 8  # which Humble and all later distributions read


@contextmanager
def bag_writer(path: Path, storage: StoragePlugin) -> Iterator[Writer]:
    """A writer of a bag directory, which gets its name when the block ends.

    Raises:
        ValueError: `path` exists.
        OSError: It cannot be written.
    """
    if path.exists():
        raise ValueError(f"{path} already exists; remove it or choose another name")
    with atomic_folder(path) as partial:
        bag = partial / path.name  # the storage file is named after the folder that it is written to
        with Writer(bag, version=BAG_VERSION, storage_plugin=storage) as writer:
            yield writer
        for file in bag.iterdir():
            file.rename(partial / file.name)
        bag.rmdir()

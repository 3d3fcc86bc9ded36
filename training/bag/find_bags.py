"""The bags that a user names: one by one, as folders of bags, or in a list."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bevdistill_ros.core.files import read_text
from training.bag.remedy import STORAGES
from training.bag.storage import METADATA_FILE, BagError

LIST_SUFFIX = ".txt"
_MAX_LIST_BYTES = 16_000_000
_MAX_DEPTH = 8
_PART = re.compile(r"(.*)_\d+")  # rosbag2 numbers the files of one recording


def find_bags(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Bags, each once, in the order of the paths and by name within a folder.

    Args:
        paths: Bags (a folder with metadata.yaml, or with the numbered files of one recording), storage files, folders
            that hold bags at any depth, and text files with a path per line; relative ones are relative to that file.

    Raises:
        BagError: A path does not exist, or no bag is found.
    """
    found = dict.fromkeys(bag for path in paths for bag in _bags_of(Path(path)))
    if not found:
        raise BagError(f"no bag in {', '.join(map(str, paths)) or 'nothing'}; give bags, folders of bags, or a list")
    return tuple(found)


def name_of(bag: Path) -> str:
    """A name for what is made of a bag: letters, digits and `_ - .` of its own."""
    stem = bag.name.removesuffix(".zstd")
    stem = stem.removesuffix(Path(stem).suffix) if Path(stem).suffix in STORAGES else stem
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem).strip(".") or "bag"


def names_of(bags: Sequence[Path]) -> dict[Path, str]:
    """A name per bag that no other has: its own, with those of the folders around it where several are called so."""
    names = {bag: name_of(bag) for bag in bags}
    folders = {bag: [name_of(parent) for parent in bag.resolve().parents[:-1]] for bag in bags}
    for depth in range(max(map(len, folders.values()), default=0)):
        taken = list(names.values())
        twice = [bag for bag in bags if taken.count(names[bag]) > 1] if len(set(taken)) < len(taken) else []
        for bag in twice:
            if depth < len(folders[bag]):
                names[bag] = f"{folders[bag][depth]}-{names[bag]}"
    return names


def _bags_of(path: Path) -> Iterator[Path]:
    if not path.exists():
        raise BagError(f"bag {path} does not exist")
    if path.suffix == LIST_SUFFIX and path.is_file():
        lines = read_text(path, what="list of bags", max_bytes=_MAX_LIST_BYTES).splitlines()
        for line in filter(None, (entry.partition("#")[0].strip() for entry in lines)):
            yield from _bags_of(path.parent / Path(line).expanduser())
    elif path.is_dir():
        inside = list(_bags_in(path, 0))
        yield from inside or [path]  # whoever opens it says what it lacks
    else:
        yield path


def _bags_in(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / METADATA_FILE).exists():
        yield folder
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix in STORAGES]
    matches = [_PART.fullmatch(entry.stem) for entry in files]
    if len(files) > 1 and all(matches) and len({match[1] for match in matches if match}) == 1:
        yield folder
    else:
        yield from files
    if depth < _MAX_DEPTH:
        for entry in entries:
            if entry.is_dir() and not entry.is_symlink():
                yield from _bags_in(entry, depth + 1)

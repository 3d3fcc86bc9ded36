"""Opening nuScenes tables, with errors that say what is there instead of what was asked for."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes, is_predefined_split

LIDAR = "LIDAR_TOP"  # the devkit's name, and the default of ours
_VERSION_OF_OFFICIAL_SPLIT: dict[str, str] = {  # the devkit scores an official split on tables of this kind only
    "train": "trainval",
    "val": "trainval",
    "train_detect": "trainval",
    "train_track": "trainval",
    "mini_train": "mini",
    "mini_val": "mini",
    "test": "test",
}


class TablesWithoutMaps(NuScenes):
    """The devkit's tables without maps and logs, which no score depends on and a data set may lack."""

    def __load_table__(self, table_name: str) -> list[dict[str, Any]]:
        """Records of a table: no log, and one map of no log, as the devkit looks at the first."""
        if table_name == "log":
            return []
        if table_name == "map":
            return [{"token": "", "log_tokens": [], "filename": ""}]
        records: list[dict[str, Any]] = super().__load_table__(table_name)
        return records


def open_tables(root: Path, version: str, *, lidar: str = LIDAR) -> NuScenes:
    """Load the tables of a database with the devkit; this takes half a minute for all of nuScenes.

    Args:
        root: Folder that holds `samples`, `sweeps` and the folder of tables.
        version: Name of the folder of tables, such as `v1.0-trainval`.
        lidar: Channel whose ego pose the devkit measures ranges from, in the place of LIDAR_TOP; empty takes that of a
            camera.

    Raises:
        ValueError: There is no such folder, or its tables cannot be read.
    """
    check_version(root, version)
    try:
        tables = TablesWithoutMaps(version=version, dataroot=str(root), verbose=False)
        for sample in tables.sample:
            sample["data"].setdefault(LIDAR, sample["data"][lidar or min(sample["data"])])
        return tables
    except (AssertionError, OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"the devkit cannot read the tables in {root / version} ({type(error).__name__}: {error}); "
            "unpack the metadata again"
        ) from error


def check_version(root: Path, version: str) -> None:
    """Raise ValueError, with the versions found, unless `root` holds tables of this version."""
    if not root.is_dir():
        raise ValueError(f"there is no data set at {root}; data.root is the folder that holds samples/ and the tables")
    if (root / version / "sample.json").is_file():
        return
    found = sorted(path.parent.name for path in root.glob("*/sample.json"))
    listed = f"versions found there: {', '.join(found)}" if found else "no nuScenes tables were found there"
    raise ValueError(f"{root} has no version '{version}'; {listed}")


def check_new_version(root: Path, version: str, name: str) -> Path:
    """The folder for tables that are to be written beside those of a version.

    Raises:
        ValueError: The name is no name of a folder, is taken, or lacks the ending by which the devkit knows the
            official splits of this version.
    """
    target = root / name
    if not name or target.parent != root or name in (".", ".."):
        raise ValueError(f"output_version must be the name of a folder in {root}, but is '{name}'")
    if target.exists():
        raise ValueError(f"{target} exists already; remove it or choose another output_version")
    for kind in set(_VERSION_OF_OFFICIAL_SPLIT.values()):
        if version.endswith(kind) and not name.endswith(kind):
            raise ValueError(
                f"output_version must end in {kind} as {version} does, whose splits it keeps, but is '{name}'"
            )
    return target


def read_tables(root: Path, version: str, only: Collection[str] = ()) -> dict[str, Any]:
    """Tables of a version by their file's name, as they are; `splits.json` among them where there is one.

    Args:
        root: Folder that holds the folder of tables.
        version: Name of that folder.
        only: Names of the files that are wanted; empty: all.

    Raises:
        ValueError: There is no such version, or a table can't be read.
    """
    check_version(root, version)
    tables = {}
    for path in sorted((root / version).glob("*.json")):
        if only and path.name not in only:
            continue
        try:
            tables[path.name] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not valid JSON: {error}; unpack the metadata again") from error
    return tables


def splits_of(root: Path, version: str) -> dict[str, tuple[str, ...]]:
    """Scene names of every split that the devkit can score on these tables.

    These are the official splits that belong to this kind of version, and those of `splits.json` beside the tables.

    Raises:
        ValueError: `splits.json` is damaged, or one of its splits has the name of an official split, for which the
            devkit would read its own list of scenes.
    """
    official = create_splits_scenes()
    splits = {
        name: tuple(official[name]) for name, kind in _VERSION_OF_OFFICIAL_SPLIT.items() if version.endswith(kind)
    }
    custom = _custom_splits(root / version / "splits.json")
    taken = [name for name in custom if is_predefined_split(name)]
    if taken:
        raise ValueError(
            f"{root / version / 'splits.json'} defines '{taken[0]}', the name of an official nuScenes split; "
            f"rename it, for example to 'own_{taken[0]}'"
        )
    return splits | custom


def _custom_splits(path: Path) -> dict[str, tuple[str, ...]]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    lists = isinstance(content, Mapping) and all(isinstance(scenes, list) for scenes in content.values())
    if not lists:
        raise ValueError(f"{path} must map names of splits to lists of scene names")
    return {str(name): tuple(str(scene) for scene in scenes) for name, scenes in content.items()}

"""The tables of a data set, out of the rows of its bags."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO

import cv2
import numpy as np

from training.bag_import.config import ALL_SPLIT, TRAIN_SPLIT, VAL_SPLIT, BagImportConfig
from training.bag_import.records import BagResult
from training.data.schema import MAP_FILE, Row, named_rows, token_of

_COMMON = ("category", "attribute", "visibility", "sensor", "calibrated_sensor")  # rows that bags share
_TABLES = (*_COMMON, "log", "map", "scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance")
_RECORD = "import.json"


class _TableWriter:
    """Writes the rows of all tables as they come; a row that is there already is not written again."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._files: dict[str, IO[str]] = {
            name: stack.enter_context((folder / f"{name}.json").open("w", encoding="utf-8")) for name in _TABLES
        }
        self._known: dict[str, set[str]] = {name: set() for name in _TABLES}
        for file in self._files.values():
            file.write("[")

    def add(self, table: str, rows: Sequence[Row]) -> None:
        """Add rows to a table."""
        known, file = self._known[table], self._files[table]
        for row in rows:
            if table in _COMMON and row["token"] in known:
                continue
            file.write(f"{',' if known else ''}\n{json.dumps(row, allow_nan=False)}")
            known.add(row["token"] if table in _COMMON else "")

    def close(self) -> None:
        """End all tables."""
        for file in self._files.values():
            file.write("\n]\n")


def write_tables(config: BagImportConfig, results: Sequence[BagResult]) -> list[BagResult]:
    """Write the tables, and remove what no row of them names.

    Args:
        config: The settings.
        results: Of all bags, in their order.

    Returns:
        The results; a bag whose scene another bag holds already is an error now.

    Raises:
        OSError: They cannot be written.
    """
    folder = config.growing / config.version
    folder.mkdir(parents=True, exist_ok=True)
    checked = list(_without_twice(results))
    files: set[str] = {MAP_FILE}
    logs: list[str] = []
    with ExitStack() as stack:
        writer = _TableWriter(folder, stack)
        for table, rows in named_rows().items():
            writer.add(table, rows)
        for result in checked:
            if result.error:
                continue
            tables: Mapping[str, list[Row]] = json.loads((config.rows / f"{result.name}.json").read_text())["tables"]
            for table, rows in tables.items():
                writer.add(table, rows)
            files |= {row["filename"] for row in tables["sample_data"]}
            logs += [row["token"] for row in tables["log"]]
        map_row = {"token": token_of("map"), "category": "semantic_prior", "filename": MAP_FILE, "log_tokens": logs}
        writer.add("map", [map_row])
        writer.close()
    _write_map(config.growing / MAP_FILE)
    _remove_others(config.growing, files)
    (folder / "splits.json").write_text(json.dumps(splits_of(config, checked), indent=1))
    settings = {name: value for name, value in asdict(config).items() if name not in ("progress", "num_workers", "ray")}
    record = {"settings": settings, "bags": [result.to_plain() for result in checked]}
    (folder / _RECORD).write_text(json.dumps(record, indent=1, default=str))
    return checked


def splits_of(config: BagImportConfig, results: Sequence[BagResult]) -> dict[str, list[str]]:
    """Scenes by split; those of one bag are together, and the bags of a share lie evenly among the others."""
    good = [result for result in results if not result.error]
    splits: dict[str, list[str]] = {TRAIN_SPLIT: [], VAL_SPLIT: [], ALL_SPLIT: []}
    for number, result in enumerate(good):
        of_share = int((number + 1) * config.val_share) > int(number * config.val_share)
        is_val = result.name in config.val_bags if config.val_bags else of_share
        splits[VAL_SPLIT if is_val else TRAIN_SPLIT] += result.scenes
        splits[ALL_SPLIT] += result.scenes
    return {name: scenes for name, scenes in splits.items() if scenes}


def _without_twice(results: Sequence[BagResult]) -> Iterator[BagResult]:
    """Results in which a scene that two bags hold counts for the first only."""
    owners: dict[str, str] = {}
    for result in results:
        twice = [scene for scene in result.scenes if scene in owners]
        if twice:
            yield replace(result, error=f"its scene '{twice[0]}' is in {owners[twice[0]]} too", scenes=())
            continue
        owners.update(dict.fromkeys(result.scenes, result.bag))
        yield result


def _write_map(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done, content = cv2.imencode(path.suffix, np.zeros((8, 8), dtype=np.uint8))
    assert done, f"OpenCV cannot write {path.name}"
    path.write_bytes(content.tobytes())  # cv2.imwrite does not report a full disk


def _remove_others(root: Path, files: set[str]) -> None:
    """Remove what bags left that were interrupted, and folders that are empty then."""
    for folder in (root / "samples", root / "sweeps"):
        for path in [*folder.rglob("*")]:
            if path.is_file() and path.relative_to(root).as_posix() not in files:
                path.unlink()
        for path in sorted(folder.glob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

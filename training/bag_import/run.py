"""`bevdistill bag import`: many bags at once, in processes, and all of them or none under the final name."""

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from tqdm import tqdm

from bevdistill_ros.core.files import replace_folder
from bevdistill_ros.core.lock import locked_folder
from training.bag.find_bags import find_bags, names_of
from training.bag.read_bag import BagError
from training.bag_import.annotations import Categories
from training.bag_import.config import ALL_SPLIT, BagImportConfig
from training.bag_import.merge import splits_of, write_tables
from training.bag_import.one_bag import digest_of, import_bag, rows_path
from training.bag_import.records import BagResult
from training.parallel.spread import spread

_LOG = logging.getLogger(__name__)
_MAX_LISTED = 20


def run_bag_import(config: BagImportConfig) -> str:
    """Import; returns the closing text.

    Raises:
        ValueError: No bag could be imported, or some could not; the others are in the data set then.
        OSError: The data set cannot be written.
    """
    start = time.perf_counter()
    results = import_bags(config)
    text = _closing(config, results, time.perf_counter() - start)
    failed = [result for result in results if result.error]
    if failed:
        listed = "".join(f"\n  {result.bag}: {result.error}" for result in failed[:_MAX_LISTED])
        more = f"\n  and {len(failed) - _MAX_LISTED} more" if failed[_MAX_LISTED:] else ""
        raise ValueError(f"{text}\n{len(failed)} of {len(results)} bags could not be imported:{listed}{more}")
    return text


def import_bags(config: BagImportConfig) -> list[BagResult]:
    """Write a data set of all bags that can be imported; it has its name only when it is complete.

    Bags that an interrupted run of the same settings has imported are not read again.

    Args:
        config: The settings.

    Returns:
        The results in the order of the bags.

    Raises:
        ValueError: The data set exists, another process writes it, or none of the bags can be imported.
        OSError: It cannot be written.
    """
    if config.root.exists():
        raise ValueError(f"{config.root} already exists; remove it or choose another root")
    names = names_of(find_bags(config.bags))
    Categories(config.classes)
    if unknown := [name for name in config.val_bags if name not in names.values()]:
        raise ValueError(
            f"val_bags names {', '.join(unknown)}, but the bags are {', '.join(list(names.values())[:20])}"
        )
    with locked_folder(config.work):
        done = dict(_done(config, names))
        if done:
            _LOG.info("%d of %d bags are imported already", len(done), len(names))
        bar = tqdm(total=len(names), initial=len(done), desc="import", unit="bag", disable=not config.progress)
        with bar:
            for result in _fresh(config, {path: name for path, name in names.items() if path not in done}):
                done[Path(result.bag)] = result
                bar.update()
                if result.error:
                    _LOG.warning("%s: %s", result.bag, result.error)
        return _complete(config, [done[path] for path in names])


def _fresh(config: BagImportConfig, names: Mapping[Path, str]) -> Iterator[BagResult]:
    """Results of bags as they come; what a task died of is an error of its bag."""
    work = partial(import_bag, config)
    for outcome in spread(work, list(names.items()), processes=config.num_workers, ray=config.ray):
        path, name = outcome.item
        yield outcome.result or BagResult(bag=str(path), name=name, error=outcome.error)


def _complete(config: BagImportConfig, results: list[BagResult]) -> list[BagResult]:
    """Write the tables and give the data set its name."""
    if unwritten := [result for result in results if result.is_unwritten]:
        raise OSError(f"{unwritten[0].error}; {len(unwritten)} bags are not imported. The same command goes on")
    if all(result.error for result in results):
        shutil.rmtree(config.work)
        reasons = "".join(f"\n  {result.error}" for result in results[:_MAX_LISTED])
        raise BagError(f"none of the {len(results)} bags could be imported:{reasons}")
    results = write_tables(config, results)
    replace_folder(config.growing, config.root)
    shutil.rmtree(config.work)
    return results


def _done(config: BagImportConfig, names: Mapping[Path, str]) -> Iterator[tuple[Path, BagResult]]:
    """Bags that are imported already, unless they or the settings have changed since."""
    for path, name in names.items():
        rows = rows_path(config, name)
        try:
            content = json.loads(rows.read_text()) if rows.is_file() else {}
        except ValueError:
            continue
        if content.get("digest") == digest_of(config, path):
            yield path, BagResult.from_plain(content["result"])


def _closing(config: BagImportConfig, results: list[BagResult], seconds: float) -> str:
    good = [result for result in results if not result.error]
    images, busy = sum(result.images for result in good), sum(result.seconds for result in good)
    lines = [
        f"data set: {config.root}, version {config.version}: {sum(len(result.scenes) for result in good)} scenes of "
        f"{len(good)} bags, {sum(result.key_frames for result in good)} key frames, {images} images, "
        f"{sum(result.sweeps for result in good)} sweeps, {sum(result.boxes for result in good)} boxes",
        f"{seconds:.1f} s; {images / max(busy, 1e-9):.0f} images/s per process, "
        f"{sum(result.megabytes for result in good) / max(busy, 1e-9):.0f} MB/s",
    ]
    splits = splits_of(config, results)
    lines.append("splits: " + ", ".join(f"{name} ({len(scenes)})" for name, scenes in splits.items()))
    skipped: dict[str, int] = {}
    for result in good:
        for reason, count in result.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    lines += [f"left out: {count} x {reason}" for reason, count in sorted(skipped.items(), key=lambda item: -item[1])]
    notes = dict.fromkeys(note for result in good for note in result.notes)
    lines += [f"note: {note}" for note in list(notes)[:_MAX_LISTED]]
    if not any(result.boxes for result in good):
        lines.append(f"no annotations: train on it after labelling; nothing can be scored on {ALL_SPLIT}")
    return "\n".join(lines)

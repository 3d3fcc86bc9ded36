"""The synthetic world on disk, as a data set with the nuScenes schema."""

import json
import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from training.synth.config import SynthConfig
from training.synth.recorder import SceneRecord, SceneRecorder
from training.synth.rig import LIDAR_NAME
from training.synth.tables import MAP_FILE, build_tables, scene_name


def write_world(config: SynthConfig, *, progress: bool = True) -> Path:
    """Write a data set; the same configuration gives the same bytes, with any number of processes.

    Args:
        config: What to write, and where.
        progress: Show a bar.

    Returns:
        The folder of the data set, which appears only when it is complete.

    Raises:
        FileExistsError: The folder exists, and `config.overwrite` is off.
        ValueError: The rig file can't be read, or describes cameras that can't be drawn.
    """
    root = Path(config.root)
    channels = [LIDAR_NAME, *(camera.name for camera in config.cameras())]
    if root.exists() and not config.overwrite:
        raise FileExistsError(f"{root} already exists; choose another root, or replace it with overwrite")
    partial_root = root.with_name(f".{root.name}.partial")
    shutil.rmtree(partial_root, ignore_errors=True)
    try:
        _make_folders(partial_root, channels)
        records = list(
            tqdm(_records(config, partial_root), "scenes", config.num_scenes, unit="scene", disable=not progress)
        )
        _write_tables(config, records, partial_root)
        shutil.rmtree(root, ignore_errors=True)
        partial_root.rename(root)
    finally:
        shutil.rmtree(partial_root, ignore_errors=True)
    return root


def run_synth(config: SynthConfig) -> str:
    """Write a data set; returns the closing text."""
    root = write_world(config)
    splits = ", ".join(f"{name} ({len(scenes)} scenes)" for name, scenes in config.splits().items() if scenes)
    text = f"data set: {root}, version {config.version}, splits {splits}"
    if config.rig is None:
        return text
    names = ", ".join(camera.name for camera in config.cameras())
    return f"{text}\ncameras: train with --student.cameras '[{names}]'"


def _make_folders(root: Path, channels: Sequence[str]) -> None:
    for channel in channels:
        for folder in ("samples", "sweeps"):
            (root / folder / channel).mkdir(parents=True)
    (root / "maps").mkdir()


def _records(config: SynthConfig, root: Path) -> Iterator[SceneRecord]:
    """Scenes in their order, each written by one process."""
    record = partial(_record_scene, config, root)
    if config.num_workers == 1:
        yield from map(record, range(config.num_scenes))
        return
    # Fresh processes: forking one in which other libraries run threads can hang.
    with ProcessPoolExecutor(config.num_workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(record, range(config.num_scenes))


def _record_scene(config: SynthConfig, root: Path, index: int) -> SceneRecord:
    return SceneRecorder(config, index, root).record()


def _write_tables(config: SynthConfig, records: list[SceneRecord], root: Path) -> None:
    folder = root / config.version
    folder.mkdir()
    for name, rows in build_tables(config, records).items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
    splits = {name: [scene_name(index) for index in indices] for name, indices in config.splits().items() if indices}
    (folder / "splits.json").write_text(json.dumps(splits, indent=1))
    cv2.imwrite(str(root / MAP_FILE), np.zeros((8, 8), dtype=np.uint8))

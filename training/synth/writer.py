"""The synthetic world on disk, as a data set with the nuScenes schema."""

import json
import multiprocessing
import os
import secrets
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from bevdistill_ros.core.files import replace_folder
from bevdistill_ros.core.lock import locked_folder
from training.data.schema import MAP_FILE
from training.parallel.child import end_with
from training.synth.config import SynthConfig
from training.synth.overwrite import MARK, check_replaceable
from training.synth.recorder import SceneRecord, SceneRecorder
from training.synth.rig import LIDAR_NAME
from training.synth.tables import build_tables, scene_name


def write_world(config: SynthConfig, *, progress: bool = True) -> Path:
    """Write a data set; the same configuration gives the same bytes, with any number of processes.

    Args:
        config: What to write, and where.
        progress: Show a bar.

    Returns:
        The folder of the data set, which appears only when it is complete.

    Raises:
        FileExistsError: The folder exists, and `config.overwrite` is off.
        ValueError: The rig file can't be read, or describes cameras that can't be drawn; another process writes this
            data set; or the folder to replace holds other files than those of a data set.
        OSError: It cannot be written.
    """
    root = Path(config.root)
    channels = [LIDAR_NAME, *(camera.name for camera in config.cameras())]
    check_replaceable(root, overwrite=config.overwrite)
    partial_root = root.with_name(f".{root.name}.partial")
    with locked_folder(partial_root):
        try:
            for leftover in partial_root.iterdir():  # of a run that was killed, as this one holds the lock
                shutil.rmtree(leftover)
            fresh = partial_root / secrets.token_hex(4)
            _make_folders(fresh, channels)
            records = list(
                tqdm(_records(config, fresh), "scenes", config.num_scenes, unit="scene", disable=not progress)
            )
            _write_tables(config, records, fresh)
            check_replaceable(root, overwrite=config.overwrite)
            replace_folder(fresh, root)
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.num_workers, context, end_with, (os.getpid(), signal.SIGKILL)) as pool:
        yield from pool.map(record, range(config.num_scenes))


def _record_scene(config: SynthConfig, root: Path, index: int) -> SceneRecord:
    return SceneRecorder(config, index, root).record()


def _write_tables(config: SynthConfig, records: list[SceneRecord], root: Path) -> None:
    folder = root / config.version
    folder.mkdir()
    for name, rows in build_tables(config, records).items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))
    splits = {name: [scene_name(index) for index in indices] for name, indices in config.splits().items() if indices}
    settings = {key: value for key, value in asdict(config).items() if key not in ("root", "num_workers", "overwrite")}
    (folder / MARK).write_text(json.dumps(settings, indent=1, default=str))
    (folder / "splits.json").write_text(json.dumps(splits, indent=1))
    done, content = cv2.imencode(Path(MAP_FILE).suffix, np.zeros((8, 8), dtype=np.uint8))
    assert done, f"OpenCV cannot write {MAP_FILE}"
    (root / MAP_FILE).write_bytes(content.tobytes())  # cv2.imwrite does not report a full disk

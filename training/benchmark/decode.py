"""Accuracy lost by decoding JPEGs at a reduced size: the same detector on the same images, decoded in three ways."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.decode import decode_image
from training.data.images import read_image
from training.data.index.load import DataConfig
from training.data.tables import open_tables
from training.evaluate.detector import Detector, load_detector
from training.evaluate.metrics import Metrics, evaluate_detections
from training.evaluate.run import detect_split
from training.synth.config import SynthConfig
from training.synth.writer import write_world

Read = Callable[[Path, tuple[int, int], int], np.ndarray]  # file, nominal size, width that is needed


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """What `bevdistill bench decode` compares."""

    source: str = "config/weights/student.safetensors"  # bundle folder or checkpoint of a student
    root: Path = Path("data/synth_wide")  # world of large images; written where it is not there, which takes a while
    image_height: int = 900  # [px] of the images of that world
    image_width: int = 1600  # [px]
    scenes: int = 8  # of that world
    frames: int = 20  # key frames per scene
    seed: int = 0  # of that world
    output: Path = Path("runs/decode")  # folder for the results of each way
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>
    num_workers: int = 2  # processes that load data
    progress: bool = True  # show bars


def run_decode(config: DecodeConfig) -> str:
    """Score each way of reading; returns the table.

    Raises:
        ValueError: The detector or the data can't be read.
    """
    detector = load_detector(config.source, config.device)
    if detector.uses_lidar:
        raise ValueError(f"{config.source} is a teacher, which sees no images; give a student")
    world = _world(config)
    if not (config.root / world.version).is_dir():
        write_world(world, progress=config.progress)
    data = DataConfig(root=config.root, version=world.version, val_split="synth_val", num_sweeps=0)
    scores = {name: _score(config, detector, data, name, read) for name, read in WAYS.items()}
    return _table(config, scores)


def read_by_area(path: Path, size: tuple[int, int], width: int) -> np.ndarray:
    """Decode a whole image, then give each pixel the mean of what it covers: the reference."""
    whole = read_whole(path, size, width)
    rows = max(round(size[0] * width / size[1]), 1)
    return np.asarray(cv2.resize(whole, (width, rows), interpolation=cv2.INTER_AREA))


def read_whole(path: Path, size: tuple[int, int], width: int) -> np.ndarray:
    """Decode a whole image."""
    return decode_image(path.read_bytes(), nominal_width=size[1], width=size[1])


WAYS: dict[str, Read] = {
    "whole, then scaled by area": read_by_area,
    "whole, then preprocess()": read_whole,
    "reduced, then preprocess()": read_image,
}


def _world(config: DecodeConfig) -> SynthConfig:
    return SynthConfig(
        root=config.root,
        seed=config.seed,
        num_train_scenes=0,
        num_tune_scenes=0,
        num_val_scenes=config.scenes,
        frames_per_scene=config.frames,
        image_height=config.image_height,
        image_width=config.image_width,
    )


def _score(config: DecodeConfig, detector: Detector, data: DataConfig, name: str, read: Read) -> Metrics:
    dataset = detector.dataset(data, data.val_split)
    dataset.read_image = read
    detections = detect_split(detector, dataset, batch_size=1, num_workers=config.num_workers, progress=config.progress)
    folder = config.output / name.split(",")[0] / name.split()[-1].strip("()")
    return evaluate_detections(
        open_tables(data.root, data.version),
        detections,
        dataset.index.poses_of(data.val_split),
        data.val_split,
        folder,
        uses_lidar=False,
    )


def _table(config: DecodeConfig, scores: dict[str, Metrics]) -> str:
    title = f"{config.image_width}x{config.image_height}, {config.scenes * config.frames} frames"
    rows = [(name, f"{score.nds:.4f}", f"{score.mean_ap:.4f}") for name, score in scores.items()]
    _, whole, reduced = scores.values()
    change = f"change of NDS by decoding at a reduced size: {reduced.nds - whole.nds:+.4f}"
    return "\n".join([aligned([(title, "NDS", "mAP"), *rows]), change, f"results: {config.output}"])

"""How fast this machine makes data, trains and infers; one table."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.decode import decode_image
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.frame import frame_from_images
from training.config import TrainConfig
from training.data.index import NuScenesIndex
from training.data.nuscenes import DataConfig, NuScenesDataset, load_index
from training.data.sample import collate
from training.fit import build_augment, build_module
from training.models import dataset_for
from training.synth.config import SynthConfig
from training.synth.writer import write_world


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What `bevdistill bench` measures."""

    bundle: Path | None = None  # whose inference is timed; None leaves inference out
    data: DataConfig = field(
        default_factory=lambda: DataConfig(
            root=Path("data/synth"),
            version="v1.0-synth",
            train_split="synth_train",
            val_split="synth_val",
            num_sweeps=4,
        )
    )
    configs: tuple[Path, ...] = (  # training runs that are timed
        Path("config/train/teacher_tiny.yaml"),
        Path("config/train/student_tiny.yaml"),
    )
    generation_frames: int = 8  # key frames of the world that is made and thrown away; 0 leaves it out
    steps: int = 6  # timed training steps
    frames: int = 20  # timed inferences
    warm_up: int = 2  # of each, not counted


Row = tuple[str, str, str]  # what, value, unit


def measure(config: SpeedConfig, trainings: tuple[tuple[str, TrainConfig], ...] = ()) -> str:
    """Measure and put it in a table.

    Args:
        config: What to measure.
        trainings: Training runs by name, read from `config.configs`.
    """
    rows: list[Row] = []
    if config.generation_frames:
        rows.append(("data generation, 6 cameras and LiDAR", f"{_generation_rate(config):.2f}", "frames/s"))
    index = load_index(config.data)
    for name, training in trainings:
        rate = _training_rate(training, config, index)
        rows.append((f"training {name}, batch {training.optim.batch_size}", f"{rate:.2f}", "samples/s"))
    if config.bundle is not None:
        rows += _inference_rows(config, config.bundle, index)
    width = max(len(row[0]) for row in rows)
    threads = f"{torch.get_num_threads()} threads, {'GPU' if torch.cuda.is_available() else 'no GPU'}"
    lines = [
        f"{'speed on this machine (' + threads + ')':<{width}}",
        *(f"{a:<{width}}  {b:>14}  {c}" for a, b, c in rows),
    ]
    return "\n".join(lines)


def run_speed(config: SpeedConfig) -> str:
    """Measure with the training configurations of files; returns the table."""
    from training.cli import settings_of  # noqa: PLC0415 (the command line imports this module)

    settings = tuple((path.stem, settings_of("train", [f"--config={path}"])) for path in config.configs)
    return measure(config, settings)


def _generation_rate(config: SpeedConfig) -> float:
    with tempfile.TemporaryDirectory() as folder:
        world = SynthConfig(
            root=Path(folder) / "world",
            num_train_scenes=2,
            num_tune_scenes=0,
            num_val_scenes=0,
            frames_per_scene=max(config.generation_frames // 2, 1),
        )
        started = time.perf_counter()
        write_world(world, progress=False)
        return 2 * world.frames_per_scene / (time.perf_counter() - started)


def _training_rate(training: TrainConfig, config: SpeedConfig, index: NuScenesIndex) -> float:
    """Samples a second of forward, losses, backward and optimiser step; data is read beforehand."""
    dataset = dataset_for(
        config.data,
        training.student,
        index,
        config.data.train_split,
        with_images=training.role == "student",
        with_points=True,
        augment=build_augment(training),
    )
    size = training.optim.batch_size
    batches = [collate([dataset[(start + item) % len(dataset)] for item in range(size)]) for start in (0, size)]
    module = build_module(training).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)

    def step(number: int) -> None:
        losses = module.losses(batches[number % len(batches)])
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        optimizer.step()

    return size / float(np.median(_times(step, config.steps, config.warm_up)))


def _inference_rows(config: SpeedConfig, bundle: Path, index: NuScenesIndex) -> list[Row]:
    engine = Engine(load_bundle(bundle))
    student = engine.config
    dataset = NuScenesDataset(
        index,
        config.data.val_split,
        cameras=student.cameras,
        height=student.image_height,
        width=student.image_width,
        num_sweeps=0,
    )
    stages: list[dict[str, float]] = []

    def infer(number: int) -> None:
        sample = int(dataset.samples[number % len(dataset)])
        started = time.perf_counter()
        columns = [index.cameras.index(name) for name in student.cameras]
        sizes = [(int(height), int(width)) for height, width in index.camera_sizes[sample, columns]]
        contents = [(index.root / index.camera_files[sample, column].decode()).read_bytes() for column in columns]
        images = [
            decode_image(content, nominal_width=size[1], width=student.image_width)
            for content, size in zip(contents, sizes, strict=True)
        ]
        decoded = time.perf_counter()
        frame = frame_from_images(
            images,
            stamp_ns=int(index.stamps_ns[sample]),
            names=student.cameras,
            intrinsics=index.intrinsics[sample, columns],
            sizes=sizes,
            ego_from_camera=index.ego_from_camera[sample, columns],
            global_from_ego=index.global_from_ego[sample],
            height=student.image_height,
            width=student.image_width,
        )
        prepared = time.perf_counter()
        engine.infer(frame)
        stages.append(
            {"decode": (decoded - started) * 1e3, "preprocess": (prepared - decoded) * 1e3, **engine.stage_ms}
        )

    _times(infer, config.frames, config.warm_up)
    counted = stages[config.warm_up :]
    rows = []
    for name in counted[0]:
        values = np.array([stage[name] for stage in counted])
        p50, p95 = np.percentile(values, [50, 95])
        rows.append((f"inference, {name} (p50 / p95)", f"{p50:.1f} / {p95:.1f}", "ms"))
    return rows


def _times(work: Callable[[int], None], count: int, warm_up: int) -> list[float]:
    """Seconds of each call after the warm-up."""
    times = []
    for number in range(warm_up + count):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return times[warm_up:]

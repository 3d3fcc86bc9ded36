"""How fast this machine makes data, trains and infers; one table."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice, EngineName
from bevdistill_ros.inference.frame import frame_from_images
from training.benchmark.engine.alone import own_ms
from training.cli.settings import settings_from
from training.data.images import read_image
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.data.sample import collate
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module
from training.synth.config import SynthConfig
from training.synth.writer import write_world


@dataclass(frozen=True, kw_only=True)
class SpeedConfig:
    """What `bevdistill bench` measures."""

    bundle: Path | None = None  # whose inference is timed; null leaves inference out
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
    engine: EngineName = "auto"  # auto, torch, onnx or openvino; of inference
    device: str = (
        "auto"  # of training and of engine torch; auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    )

    def __post_init__(self) -> None:
        if min(self.steps, self.frames) < 1 or min(self.generation_frames, self.warm_up) < 0:
            raise ValueError("steps and frames must be at least 1, generation_frames and warm_up at least 0")


Row = tuple[str, str, str]  # what, value, unit


def measure(config: SpeedConfig, trainings: Sequence[tuple[str, TrainConfig]] = ()) -> str:
    """Measure and put it in a table.

    Args:
        config: What to measure.
        trainings: Training runs by name; their data is that of `config`.

    Raises:
        ValueError: The data, the bundle, a teacher or the device is not there.
    """
    device = device_from(config.device)
    index = load_index(config.data)
    engine = _engine(config) if config.bundle is not None else None
    rows: list[Row] = []
    if config.generation_frames:
        rows.append(("data generation, 6 cameras and LiDAR", f"{_generation_rate(config):.2f}", "frames/s"))
    for name, training in trainings:
        rate = _training_rate(replace(training, data=config.data), config, device)
        rows.append((f"training {name}, batch {training.optim.batch_size}", f"{rate:.2f}", "samples/s"))
    if engine is not None:
        rows += _inference_rows(config, engine, index)
    title = f"speed on this machine ({device}, {torch.get_num_threads()} threads)"
    return f"{title}\n{aligned(rows, left=(0, 2))}"


def _engine(config: SpeedConfig) -> Engine:
    assert config.bundle is not None
    return Engine(load_bundle(config.bundle), EngineChoice(engine=config.engine, device=config.device))


def engine_ms(config: SpeedConfig, rates_hz: Sequence[float]) -> list[float]:
    """Median times of the engine alone on the frames of a split [ms]: its inference stage, as the node reports it.

    Args:
        config: Bundle, engine, data and number of frames.
        rates_hz: At which the frames are given; infinite for one after the other. A time for each.
    """
    engine, index = _engine(config), load_index(config.data)
    samples = index.samples_of(config.data.val_split)
    frames = [
        _frame(engine, index, int(samples[number % len(samples)])) for number in range(config.warm_up + config.frames)
    ]
    return [own_ms(engine, frames, rate_hz=rate, warm_up=config.warm_up) for rate in rates_hz]


def run_speed(config: SpeedConfig) -> str:
    """Measure with the training configurations of files; returns the table."""
    return measure(config, [(path.stem, settings_from(TrainConfig, [f"--config={path}"])) for path in config.configs])


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


def _training_rate(training: TrainConfig, config: SpeedConfig, device: torch.device) -> float:
    """Samples per second of forward, losses, backward and optimiser step; data is read beforehand."""
    dataset = train_dataset(training)
    size = training.optim.batch_size
    batches = [
        collate([dataset[(start + item) % len(dataset)] for item in range(size)]).to(device) for start in (0, size)
    ]
    module = build_module(training).train().to(device)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-5)

    def step(number: int) -> None:
        _, total = module.objective(batches[number % len(batches)], number + 1)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return size / float(np.median(_times(step, config.steps, config.warm_up)))


def _inference_rows(config: SpeedConfig, engine: Engine, index: NuScenesIndex) -> list[Row]:
    """Time of each stage from the files of a frame to its detections."""
    samples = index.samples_of(config.data.val_split)
    stages: list[dict[str, float]] = []

    def infer(number: int) -> None:
        stages.append(_infer(engine, index, int(samples[number % len(samples)])))

    _times(infer, config.frames, config.warm_up)
    counted = stages[config.warm_up :]
    rows = [("inference, engine used", engine.description, "")]
    for name in counted[0]:
        p50, p95 = np.percentile([stage[name] for stage in counted], [50, 95])
        rows.append((f"inference, {name} (p50 / p95)", f"{p50:.1f} / {p95:.1f}", "ms"))
    return rows


def _infer(engine: Engine, index: NuScenesIndex, sample: int) -> dict[str, float]:
    """Detect in the images of a sample; returns the time of each stage [ms]."""
    started = time.perf_counter()
    images = _images(engine, index, sample)
    read = time.perf_counter()
    frame = _frame(engine, index, sample, images)
    prepared = time.perf_counter()
    engine.infer(frame)
    done = time.perf_counter()
    return {
        "read and decode": (read - started) * 1e3,
        "scale and crop": (prepared - read) * 1e3,
        "engine": (done - prepared) * 1e3,
        "all": (done - started) * 1e3,
    }


def _images(engine: Engine, index: NuScenesIndex, sample: int) -> list[np.ndarray | None]:
    columns = [index.cameras.index(name) for name in engine.config.cameras]
    files = [file.decode() for file in index.camera_files[sample, columns]]
    return [
        read_image(index.root / file, size, engine.config.image_width) if file else None
        for file, size in zip(files, index.sizes_of(sample, columns), strict=True)
    ]


def _frame(
    engine: Engine, index: NuScenesIndex, sample: int, images: Sequence[np.ndarray | None] | None = None
) -> CameraFrame:
    """What the engine takes of a sample; its images are read where they are not given."""
    columns = [index.cameras.index(name) for name in engine.config.cameras]
    return frame_from_images(
        _images(engine, index, sample) if images is None else images,
        stamp_ns=int(index.stamps_ns[sample]),
        names=engine.config.cameras,
        intrinsics=index.intrinsics[sample, columns],
        sizes=index.sizes_of(sample, columns),
        ego_from_camera=index.ego_from_camera[sample, columns],
        mountings=index.mountings_of(sample, columns),
        global_from_ego=index.global_from_ego[sample],
        target=engine.config.images,
    )


def _times(work: Callable[[int], None], count: int, warm_up: int) -> list[float]:
    """Seconds of each call after the warm-up."""
    times = []
    for number in range(warm_up + count):
        started = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - started)
    return times[warm_up:]

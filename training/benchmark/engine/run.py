"""Every engine of a bundle in turn, frame by frame, so that what else the machine does affects all alike."""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle, load_bundle, save_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice, Precision
from bevdistill_ros.inference.engines.choice import EXPORTED, may_offer, open_proven
from bevdistill_ros.inference.engines.network import EngineError
from bevdistill_ros.model.build import build_student
from training.benchmark.engine.alone import made_frame
from training.benchmark.engine.busy import busy_cores
from training.cli.settings import settings_from
from training.data.index.load import DataConfig
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.engines import add_network
from training.run.config import TrainConfig
from training.synth.rig import nuscenes_cameras

_LOG = logging.getLogger(__name__)
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, kw_only=True)
class EngineBenchConfig:
    """What `bevdistill bench engine` measures."""

    bundle: Path | None = None  # with exported networks
    training: Path | None = None  # in place of a bundle: configuration of a training, whose student has random weights
    data: DataConfig | None = None  # to score each engine on; null leaves NDS out
    split: str = ""  # empty takes data.val_split
    frames: int = 50  # timed, of each engine
    warm_up: int = 5  # frames before, not counted
    under_load: bool = True  # also with a busy process per core beside it
    threads: int = 0  # of torch and the engines; 0 is torch's own choice
    output: Path = Path("runs/bench_engine")  # folder of the scores
    progress: bool = True  # show a progress bar

    def __post_init__(self) -> None:
        if (self.bundle is None) == (self.training is None):
            raise ValueError("give either a bundle or a training configuration")
        if self.frames < 1 or self.warm_up < 0 or self.threads < 0:
            raise ValueError("frames must be at least 1, warm_up and threads at least 0")
        if self.data is not None and self.bundle is None:
            raise ValueError("a student with random weights cannot be scored; give a bundle, or leave data out")


@dataclass(kw_only=True)
class Row:
    """An engine and what was measured of it."""

    name: str  # engine, or engine-precision
    choice: EngineChoice
    engine: Engine
    load_s: float  # to load and prove
    memory_mib: float  # growth of the process by loading and the first frame
    agreement: str  # deviation from torch on the reference
    times_ms: list[float] = field(default_factory=list)
    loaded_ms: list[float] = field(default_factory=list)  # with a busy process per core
    cpu_ms: list[float] = field(default_factory=list)
    nds: float | None = None


def run_engine_bench(config: EngineBenchConfig) -> str:
    """Measure; returns the table, and as the last line the ratios to torch.

    Raises:
        ValueError: The bundle, the data or the configuration is not there.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        path = config.bundle or _random_bundle(config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        bundle = load_bundle(path)
        rows = _rows(path, config.threads)
        frames = [made_frame(bundle, number) for number in range(config.warm_up + config.frames)]
        _measure(rows, frames, config, loaded=False)
        if config.under_load:
            with busy_cores() as count:
                _LOG.info("under load: %d busy processes", count)
                _measure(rows, frames, config, loaded=True)
    if config.data is not None:
        for row in rows:
            row.nds = _nds(config, row)
    return table(rows)


def table(rows: Sequence[Row]) -> str:
    """The rows as text; the first is torch."""
    head = (
        f"{'engine':<16}{'p50':>8}{'p95':>8}{'p99':>8}{'CPU':>8}{'loaded p50':>12}{'p99':>8}{'load s':>8}{'MiB':>7}"
        f"{'NDS':>8}  difference from torch"
    )
    spin = os.environ["GOMP_SPINCOUNT"]
    threads = f"{torch.get_num_threads()} threads, torch's with GOMP_SPINCOUNT={spin}"
    lines = [f"ms per frame; {threads}; CPU is the time of all threads", head]
    for row in rows:
        p50, p95, p99 = np.percentile(row.times_ms, [50, 95, 99])
        loaded = np.percentile(row.loaded_ms, [50, 99]) if row.loaded_ms else (np.nan, np.nan)
        nds = "-" if row.nds is None else f"{row.nds:.4f}"
        lines.append(
            f"{row.name:<16}{p50:>8.1f}{p95:>8.1f}{p99:>8.1f}{np.median(row.cpu_ms):>8.1f}{loaded[0]:>12.1f}"
            f"{loaded[1]:>8.1f}{row.load_s:>8.1f}{row.memory_mib:>7.0f}{nds:>8}  {row.agreement}"
        )
    own = float(np.median(rows[0].times_ms))
    ratios = ", ".join(f"{row.name} {float(np.median(row.times_ms)) / own:.2f}" for row in rows[1:])
    return "\n".join([*lines, f"p50 ratio to torch: {ratios or 'no other engine'}"])


def _rows(path: Path, threads: int) -> list[Row]:
    """Torch, and every other engine that is installed, exported and proves itself; others are logged.

    Each has a bundle of its own, so that none finds the geometry that another one has just computed.
    """
    rows = [_row(load_bundle(path), "torch", EngineChoice(device="cpu"), "")]
    bundle = load_bundle(path)
    files = bundle.manifest.engines.networks if bundle.manifest.engines else ()
    for precision in (file.precision for file in files):
        for engine in EXPORTED:
            if not may_offer(engine, precision):
                continue
            name = engine if precision == "fp32" else f"{engine}-{precision}"
            choice = EngineChoice(engine=engine, precision=precision, num_threads=threads)  # type: ignore[arg-type]
            try:
                agreement = str(open_proven(bundle, engine, choice).deviation)
                rows.append(_row(load_bundle(path), name, choice, agreement))
            except EngineError as error:
                _LOG.warning("%s is left out: %s", name, error)
    return rows


def _row(bundle: Bundle, name: str, choice: EngineChoice, agreement: str) -> Row:
    before, started = _resident_mib(), time.perf_counter()
    engine = Engine(bundle, choice)
    load_s = time.perf_counter() - started
    engine.infer(made_frame(bundle, 0))
    engine.reset()
    return Row(
        name=name,
        choice=choice,
        engine=engine,
        load_s=load_s,
        memory_mib=max(0.0, _resident_mib() - before),
        agreement=agreement,
    )


def _measure(rows: Sequence[Row], frames: Sequence[CameraFrame], config: EngineBenchConfig, *, loaded: bool) -> None:
    """Time all engines on each frame before the next frame."""
    for row in rows:
        row.engine.reset()
    name = "under load" if loaded else "alone"
    for number, frame in enumerate(tqdm(frames, desc=name, unit="frame", disable=not config.progress)):
        for row in rows:
            started, cpu = time.perf_counter(), time.process_time()
            row.engine.infer(frame)
            elapsed, used = time.perf_counter() - started, time.process_time() - cpu
            if number < config.warm_up:
                continue
            (row.loaded_ms if loaded else row.times_ms).append(elapsed * 1e3)
            if not loaded:
                row.cpu_ms.append(used * 1e3)


def _nds(config: EngineBenchConfig, row: Row) -> float:
    assert config.data is not None
    precision: Precision = row.choice.precision
    evaluation = EvaluateConfig(
        source=str(config.bundle),
        data=config.data,
        split=config.split,
        output=str(config.output / row.name),
        engine=row.choice.engine,
        precision=precision,
        device="cpu",
        progress=config.progress,
    )
    return evaluate(evaluation).nds


def _random_bundle(config: EngineBenchConfig, folder: Path) -> Path:
    """A bundle of a configuration's student with random weights, in a rig like that of nuScenes."""
    assert config.training is not None
    settings = settings_from(TrainConfig, [f"--config={config.training}"]).student
    torch.manual_seed(0)
    student = build_student(settings).eval()
    return save_bundle(
        folder / "bundle",
        student,
        name=config.training.stem,
        version="random",
        rig=_nuscenes_rig(settings.image_height, settings.image_width),
        provenance={"weights": "random"},
        add_engines=partial(add_network, student=student, sampling="grid_sample"),
    )


def _nuscenes_rig(height: int, width: int) -> CameraRig:
    cameras = nuscenes_cameras(width=width, height=height)
    return CameraRig(
        names=NUSCENES_CAMERAS,
        intrinsics=torch.stack([torch.from_numpy(camera.intrinsics) for camera in cameras]),
        ego_from_camera=torch.stack([torch.from_numpy(camera.ego_from_camera) for camera in cameras]),
        image_size=(height, width),
    )


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20

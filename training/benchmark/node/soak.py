"""A long drive with random faults: does the node stay healthy, and is every set accounted for?

The node runs in a process of its own, as on the vehicle; another one drives its cameras and odometry over real
middleware, and now and then something goes wrong with them. ROS is imported in these processes only.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from training.benchmark.node.faults import Fault, draw_faults
from training.benchmark.node.overhead import check_ros, environment_with, node_parameters, synthetic_rig
from training.benchmark.node.pictures import write_pictures
from training.benchmark.node.soak_log import Account, SoakLog, SoakPlan, account
from training.replay.process import Child, Usage, run_to_end, usage_of

_START_TIMEOUT_S = 120.0
_SPARE_S = 60.0  # what the drive may take beyond its plan
_SAMPLE_S = 1.0  # time between two samples of the process


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """What `bevdistill bench soak` does."""

    minutes: float = 20.0
    seed: int = 0  # of the faults
    rate_hz: float = 12.0  # of each camera
    bundle: Path | None = None  # that the node runs; null makes one with random weights that takes a CPU few ms
    output: Path = Path("runs/soak")  # folder for the logs and soak.json
    warm_up_s: float = 60.0  # of the start, in which memory may grow; at most half of the time is taken
    max_growth_mb: float = 5.0  # [MB] growth of the memory after the warm-up, by a straight line, that passes as flat
    max_new_threads: int = 1  # likewise of the number of threads
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        if not self.minutes * 60 >= 10:
            raise ValueError(f"minutes must give at least 10 s, but is {self.minutes}")
        if not 0 < self.rate_hz <= 100:
            raise ValueError(f"rate_hz must be above 0 and at most 100, but is {self.rate_hz}")


@dataclass(frozen=True, kw_only=True)
class Health:
    """Memory and threads of the node's process after the warm-up."""

    seconds: float  # sampled
    memory_mb: float  # mean
    slope_mb_per_h: float  # of a straight line through the memory
    least_threads: int
    most_threads: int
    is_flat: bool


def run_soak(config: SoakConfig) -> str:
    """Soak and judge; returns the summary.

    Raises:
        ChildProcessError: The node or the vehicle ended early.
        ModuleNotFoundError: There is no ROS 2.
    """
    check_ros()
    config.output.mkdir(parents=True, exist_ok=True)
    samples, log = soak(config)
    health = health_of(config, samples)
    faults = faults_of(config)
    outcome = account(log, faults, config.rate_hz)
    text = summary(config, health, outcome, faults)
    content = {
        "health": asdict(health),
        "unexplained": outcome.unexplained,
        "fates": {condition: asdict(fate) for condition, fate in outcome.fates.items()},
        "faults": [asdict(fault) for fault in faults],
        "samples": [{"at_s": at, **asdict(usage)} for at, usage in samples],
    }
    write_whole(config.output / "soak.json", json.dumps(content, indent=1))
    return text


def soak(config: SoakConfig) -> tuple[list[tuple[float, Usage]], SoakLog]:
    """Run node and vehicle; returns what the node used, by time since the start [s], and the vehicle's log."""
    folder = config.output
    write_pictures(folder / "pictures")
    parameters = node_parameters(
        folder,
        bundle=str((config.bundle or write_light_bundle(folder / "bundle")).absolute()),
        num_threads=1,
        # Closer than two images of one camera, so that a late camera is missing and not taken for the one before.
        **{"sync.max_spread_ms": 500.0 / config.rate_hz},
    )
    module = ["bevdistill_ros.node.detector_node", "--ros-args", "--params-file", str(parameters)]
    environment = environment_with("profile")
    with Child(module, folder / "node.log", environment) as node:
        plan = SoakPlan(
            receiver_pid=node.pid,
            pictures=str(folder / "pictures"),
            cameras=NUSCENES_CAMERAS,
            rate_hz=config.rate_hz,
            seconds=config.minutes * 60,
            seed=config.seed,
            start_timeout_s=_START_TIMEOUT_S,
        )
        plan.write(folder / "plan.json")
        drive = ["training.benchmark.node.ros.faulty_drive", str(folder / "plan.json"), str(folder / "drive.json")]
        with Child(drive, folder / "vehicle.log", environment) as vehicle:
            samples = _watch(config, node, vehicle)
    return samples, SoakLog.read(folder / "drive.json")


def _watch(config: SoakConfig, node: Child, vehicle: Child) -> list[tuple[float, Usage]]:
    """Sample the node until the vehicle has finished."""
    samples: list[tuple[float, Usage]] = []
    start = time.monotonic()
    with tqdm(total=round(config.minutes * 60), desc="soak", unit="s", disable=not config.progress) as bar:

        def look() -> None:
            at = time.monotonic() - start
            samples.append((at, usage_of(node.pid)))
            bar.update(min(round(at), bar.total) - bar.n)

        limit_s = _START_TIMEOUT_S + config.minutes * 60 + _SPARE_S
        run_to_end(vehicle, node, timeout_s=limit_s, poll_s=_SAMPLE_S, on_poll=look)
    return samples


def health_of(config: SoakConfig, samples: Sequence[tuple[float, Usage]]) -> Health:
    """Judge what the node used after the warm-up."""
    end = samples[-1][0]
    late = [(at, usage) for at, usage in samples if at >= min(config.warm_up_s, end / 2)]
    times = np.array([at for at, _ in late])
    memory = np.array([usage.memory_mb for _, usage in late])
    slope = float(np.polyfit(times, memory, 1)[0]) if len(late) > 1 else 0.0
    seconds = float(times[-1] - times[0])
    threads = [usage.threads for _, usage in late]
    return Health(
        seconds=seconds,
        memory_mb=float(memory.mean()),
        slope_mb_per_h=slope * 3600,
        least_threads=min(threads),
        most_threads=max(threads),
        is_flat=slope * seconds <= config.max_growth_mb and threads[-1] - threads[0] <= config.max_new_threads,
    )


def faults_of(config: SoakConfig) -> tuple[Fault, ...]:
    """The faults of a soak."""
    return draw_faults(seed=config.seed, seconds=config.minutes * 60, cameras=NUSCENES_CAMERAS)


def write_light_bundle(path: Path) -> Path:
    """Write a bundle of a small temporal student with random weights for the synthetic rig."""
    torch.manual_seed(0)
    student = BevFormer(
        StudentConfig(
            grid=BevGrid(rows=8, cols=8),
            image_height=96,
            image_width=160,
            backbone="resnet18",
            backbone_width=8,
            backbone_norm="batch",
            first_stride=16,
            num_levels=1,
            embed_dim=16,
            num_heads=2,
            feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=1,
            num_queries=16,
            temporal=True,
        )
    )
    rig = synthetic_rig(student.config.image_height, student.config.image_width)
    return save_bundle(path, student, name="light", version="1", rig=rig, provenance={})


def summary(config: SoakConfig, health: Health, outcome: Account, faults: Sequence[Fault]) -> str:
    """Results in words, for people."""
    title = f"{config.minutes:g} min, {outcome.sets} sets of six cameras, {len(faults)} faults (seed {config.seed})"
    rows: list[tuple[object, ...]] = [
        ("sets sent while", "sets", "detected", "dropped", "unreported", "reasons the node gives")
    ]
    for condition, fate in outcome.fates.items():
        reasons = ", ".join(f"{reason} ({count})" for reason, count in list(fate.dropped.items())[:3])
        more = f" and {len(fate.dropped) - 3} more" if len(fate.dropped) > 3 else ""
        rows.append(
            (condition, fate.sets, fate.detected, sum(fate.dropped.values()), fate.unreported, f"{reasons}{more}")
        )
    lines = [title, "", aligned(rows, left=(0, 5)), "", *(f"NOT EXPLAINED: {line}" for line in outcome.unexplained)]
    if not outcome.unexplained:
        lines.append("every set was detected, or dropped for a reason that the node gives and a fault explains")
    lines.append(
        f"memory {health.memory_mb:.1f} MB, {health.slope_mb_per_h:+.2f} MB/h over {health.seconds / 60:.1f} min after "
        f"the warm-up; threads {health.least_threads} to {health.most_threads}: "
        f"{'flat' if health.is_flat else 'NOT FLAT'}"
    )
    return "\n".join([*lines, f"results: {config.output}"])

"""What the node takes around its network, beside the node as it is mostly written; over real middleware.

A process of its own drives six cameras. In turn it drives ours, with a network that costs nothing or that of a bundle
in an engine, and the naive node of `training.benchmark.node.ros.naive_node`. ROS is imported in these processes only.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
import yaml
from tqdm import tqdm

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.core.text import aligned
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice, EngineName, Precision
from bevdistill_ros.interface import fast_dds
from training.benchmark.engine.alone import made_frame, own_ms
from training.benchmark.node.drive_plan import DriveLog, DrivePlan, Transport
from training.benchmark.node.pictures import PICTURE_SIZE, write_pictures
from training.replay.process import Child, run_to_end
from training.synth.rig import nuscenes_cameras

Detector = Literal["ours", "naive"]
Dds = Literal["profile", "default"]
DDS_NAMES: dict[Dds, str] = {"profile": "with our profile", "default": "as it comes"}

REFERENCE_CAMERA = "CAM_FRONT"
_START_TIMEOUT_S = 60.0
_WARM_UP_FRAMES, _MAX_FRAMES, _DIFFERENT_FRAMES = 5, 100, 4  # of the engine alone
_SPARE_S = 30.0  # what a drive may take beyond its plan
_PERCENTILES = ("p50", "p95", "max")


@dataclass(frozen=True, kw_only=True)
class NodeBenchConfig:
    """What `bevdistill bench node` measures."""

    transport: Transport = "compressed"  # kind of the images
    dds: Literal["profile", "default", "both"] = "profile"  # with our Fast DDS profile, or without, which loses images
    detectors: tuple[Detector, ...] = get_args(Detector)  # which nodes are driven
    rate_hz: float = 12.0  # of each camera
    seconds: float = 20.0  # driven and counted a round
    rounds: int = 3  # of each node, in turn
    warm_up_s: float = 2.0  # driven before each round, not counted
    bundle: Path | None = None  # network of our node, with six cameras; null is one that costs nothing
    engine: EngineName = "auto"  # of the bundle: auto, torch, onnx or openvino
    precision: Precision = "fp32"  # of the bundle
    image_height: int = 480  # [px] of the network's input without a bundle; this is the size of BEVFormer-tiny
    image_width: int = 800  # [px]
    output: Path | None = None  # folder for logs and results.json; null keeps none
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        if not 0 < self.rate_hz <= 100:
            raise ValueError(f"rate_hz must be above 0 and at most 100, but is {self.rate_hz}")
        if not (self.seconds * self.rate_hz >= 1 and self.warm_up_s * self.rate_hz >= 1):
            raise ValueError(
                f"seconds and warm_up_s must give time for a set at {self.rate_hz} Hz, "
                f"but are {self.seconds} and {self.warm_up_s}"
            )
        if self.rounds < 1 or not self.detectors:
            raise ValueError(
                f"rounds must be at least 1 and detectors not empty, but they are {self.rounds} and "
                f"{list(self.detectors)}"
            )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All rounds of one node together."""

    sets_sent: int
    sets_lost: int
    cpu_ms: float  # CPU time of the node's process per answered set
    round_trips_ms: tuple[float, ...]  # last image of a set sent to its detections received
    stages_ms: Mapping[str, tuple[float, ...]]  # as the node reports them
    drops: Mapping[str, int]  # sets that the node says it dropped, by its reason

    @classmethod
    def of(cls, logs: Sequence[DriveLog]) -> "Measured":
        """Put rounds together."""
        trips = tuple(trip for log in logs for trip in log.round_trips_ms)
        names = list(dict.fromkeys(name for log in logs for name in log.stages_ms))
        return cls(
            sets_sent=sum(log.sets_sent for log in logs),
            sets_lost=sum(log.sets_lost for log in logs),
            cpu_ms=sum(log.cpu_s for log in logs) * 1e3 / max(len(trips), 1),
            round_trips_ms=trips,
            stages_ms={name: tuple(value for log in logs for value in log.stages_ms.get(name, ())) for name in names},
            drops=sum((Counter(log.drops) for log in logs), Counter()),
        )


def run_node_bench(config: NodeBenchConfig) -> str:
    """Measure; returns the tables, with the ratio of CPU times as the last line.

    Raises:
        ChildProcessError: One of the processes failed.
        ModuleNotFoundError: There is no ROS 2.
    """
    check_ros()
    measured = measure(config)
    own = own_ms_of(config)
    if config.output is not None:
        content = {
            name: {entry.name: getattr(result, entry.name) for entry in fields(result)}
            for name, result in measured.items()
        }
        write_whole(config.output / "results.json", json.dumps(content, indent=1, default=dict))
    return table(config, measured, own)


def measure(config: NodeBenchConfig) -> dict[str, Measured]:
    """Drive past each node, in turn; by its name, and where both kinds of Fast DDS are compared that of the kind."""
    kinds: tuple[Dds, ...] = get_args(Dds) if config.dds == "both" else (config.dds,)
    variants = {
        name if kind == kinds[0] else f"{name}, Fast DDS {DDS_NAMES[kind]}": (name, kind)
        for kind in kinds
        for name in config.detectors
    }
    logs: dict[str, list[DriveLog]] = {label: [] for label in variants}
    with tempfile.TemporaryDirectory() as scratch:
        folder = config.output or Path(scratch)
        write_pictures(folder / "pictures")
        turns = [(number, *variant) for number in range(config.rounds) for variant in variants.items()]
        for number, label, (name, kind) in tqdm(turns, desc="drive", unit="round", disable=not config.progress):
            logs[label].append(_drive_once(config, name, kind, folder, number))
    return {label: Measured.of(rounds) for label, rounds in logs.items()}


def _drive_once(config: NodeBenchConfig, name: Detector, kind: Dds, folder: Path, number: int) -> DriveLog:
    environment = environment_with(kind)
    with Child(_command(config, name, folder), folder / f"{name}_{number}.log", environment) as detector:
        plan = DrivePlan(
            receiver_pid=detector.pid,
            pictures=str(folder / "pictures"),
            cameras=NUSCENES_CAMERAS,
            transport=config.transport,
            rate_hz=config.rate_hz,
            warm_up_s=config.warm_up_s,
            seconds=config.seconds,
            start_timeout_s=_START_TIMEOUT_S,
        )
        paths = [folder / f"plan_{name}_{number}.json", folder / f"log_{name}_{number}.json"]
        plan.write(paths[0])
        module = ["training.benchmark.node.ros.drive", *map(str, paths)]
        with Child(module, folder / f"vehicle_{name}_{number}.log", environment) as vehicle:
            limit_s = 2 * _START_TIMEOUT_S + config.warm_up_s + config.seconds + _SPARE_S
            run_to_end(vehicle, detector, timeout_s=limit_s)
    return DriveLog.read(paths[1])


def _command(config: NodeBenchConfig, name: Detector, folder: Path) -> list[str]:
    """Module and arguments of a detector."""
    size = [str(config.image_height), str(config.image_width)]
    if name == "naive":
        return ["training.benchmark.node.ros.naive_node", *size, config.transport]
    if config.bundle is not None:
        choice = {"bundle": str(config.bundle.absolute()), "engine": config.engine, "precision": config.precision}
        parameters = node_parameters(folder, transport=config.transport, **choice)
        return ["bevdistill_ros.node.detector_node", "--ros-args", "--params-file", str(parameters)]
    parameters = node_parameters(folder, transport=config.transport)
    return ["training.benchmark.node.ros.identity_node", *size, "--ros-args", "--params-file", str(parameters)]


def own_ms_of(config: NodeBenchConfig) -> float | None:
    """Median time of the engine alone [ms], at the same rate and with as few changes of the rig; None without one."""
    if config.bundle is None or "ours" not in config.detectors:
        return None
    bundle = load_bundle(config.bundle)
    engine = Engine(bundle, EngineChoice(engine=config.engine, precision=config.precision))
    engine.warm_up()
    count = _WARM_UP_FRAMES + max(1, min(round(config.seconds * config.rate_hz), _MAX_FRAMES))
    frames = [made_frame(bundle, number, speed=0.0) for number in range(_DIFFERENT_FRAMES)]
    paced = [frames[number % len(frames)] for number in range(count)]
    return own_ms(engine, paced, rate_hz=config.rate_hz, warm_up=_WARM_UP_FRAMES)


def node_parameters(folder: Path, **changes: object) -> Path:
    """Write a parameter file of our node for the synthetic rig, which holds the mountings, as there may be no tf."""
    rig = synthetic_rig(*PICTURE_SIZE)
    write_whole(folder / "rig.yaml", yaml.safe_dump(rig.to_dict(), sort_keys=False))
    parameters = {
        "rig_file": str((folder / "rig.yaml").absolute()),
        "sync.reference_camera": REFERENCE_CAMERA,
        **changes,
    }
    path = folder / "node.param.yaml"
    write_whole(path, yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    return path


def synthetic_rig(height: int, width: int) -> CameraRig:
    """The rig that the pictures were taken with, for images of a size."""
    cameras = nuscenes_cameras(width=width, height=height)
    return CameraRig(
        names=NUSCENES_CAMERAS,
        intrinsics=torch.stack([torch.from_numpy(camera.intrinsics) for camera in cameras]),
        ego_from_camera=torch.stack([torch.from_numpy(camera.ego_from_camera) for camera in cameras]),
        image_size=(height, width),
    )


def environment_with(dds: Dds) -> dict[str, str]:
    """Environment of the processes on both sides: with our Fast DDS profile, or with Fast DDS as it comes."""
    environment = {name: value for name, value in os.environ.items() if name not in fast_dds.VARIABLES}
    if dds == "profile":
        environment[fast_dds.variable()] = str(fast_dds.our_profile())
    return environment


def check_ros() -> None:
    """Raise ModuleNotFoundError, saying what to do, where there is no ROS 2."""
    from training.replay.run import check_ros as check

    check()


def table(config: NodeBenchConfig, measured: Mapping[str, Measured], own: float | None = None) -> str:
    """Results in words, for people; `own` is the time of the engine alone [ms]."""
    network = f"a network input of {config.image_width}x{config.image_height}"
    if config.bundle is not None:
        network = f"bundle {config.bundle.name} in engine {config.engine}, {config.precision}"
    lines = [
        f"six {PICTURE_SIZE[1]}x{PICTURE_SIZE[0]} cameras at {config.rate_hz:g} Hz, {config.transport}, to {network}",
        f"Fast DDS {DDS_NAMES['default' if config.dds == 'default' else 'profile']} unless noted otherwise, "
        f"{config.rounds} x {config.seconds:g} s each, {os.cpu_count()} cores",
    ]
    if "ours" in measured:
        stages = [_row(name, values) for name, values in measured["ours"].stages_ms.items()]
        lines += ["", aligned([("our node, stages [ms]", *_PERCENTILES), *stages])]
    trips = [("last image sent to answer received [ms]", *_PERCENTILES, "p95 in periods")]
    sets = [("", "sets sent", "lost", "CPU per set [ms]", "drops that the node reports")]
    for name, result in measured.items():
        share = _percentile(result.round_trips_ms, 95) * config.rate_hz / 1e3
        trips.append((*_row(name, result.round_trips_ms), f"{share:.2f}"))
        drops = ", ".join(f"{reason} ({count})" for reason, count in result.drops.items())
        sets.append((name, f"{result.sets_sent}", f"{result.sets_lost}", f"{result.cpu_ms:.1f}", drops))
    lines += ["", aligned(trips), "", aligned(sets, left=(0, 4))]
    if own is not None:
        live = _percentile(measured["ours"].stages_ms.get("inference", ()), 50)
        lines += ["", f"inference in the node / engine alone at the same rate ({own:.1f} ms): {live / own:.2f}"]
    if "ours" in measured and "naive" in measured:
        lines += ["", f"cpu ratio (ours / naive): {measured['ours'].cpu_ms / measured['naive'].cpu_ms:.2f}"]
    return "\n".join(lines)


def _row(name: str, values: Sequence[float]) -> tuple[str, str, str, str]:
    high = max(values, default=float("nan"))
    return f"  {name}", f"{_percentile(values, 50):.1f}", f"{_percentile(values, 95):.1f}", f"{high:.1f}"


def _percentile(values: Sequence[float], share: float) -> float:
    return float(np.percentile(values, share)) if values else float("nan")

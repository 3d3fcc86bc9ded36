"""Time and memory of building the index of a database as large as nuScenes, from generated tables."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from training.data.index.build import build_arrays
from training.data.tables import LIDAR
from training.run.cost import MEBIBYTE, peak_memory

VERSION = "v1.0-generated"
SAMPLES, ANNOTATIONS = 40, 34  # per scene, per sample; about those of v1.0-trainval
RATES = {**dict.fromkeys(NUSCENES_CAMERAS, 6), LIDAR: 10, **dict.fromkeys(("RADAR_1", "RADAR_2", "RADAR_3"), 10)}

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class IndexBenchConfig:
    """What `bevdistill bench index` measures."""

    scenes: int = 85  # v1.0-trainval has 850
    num_sweeps: int = 9  # before each key frame
    folder: Path | None = None  # for the tables, which are removed again; null takes the system's; 850 scenes need 3 GB

    def __post_init__(self) -> None:
        if self.scenes < 1 or self.num_sweeps < 0:
            raise ValueError(
                f"scenes must be at least 1 and num_sweeps at least 0, but they are {self.scenes} and {self.num_sweeps}"
            )


def run_index(config: IndexBenchConfig) -> str:
    """Generate, build, measure; returns the table."""
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        root = Path(folder)
        counts = write_tables(root / VERSION, config.scenes)
        size = sum(path.stat().st_size for path in (root / VERSION).iterdir())
        started = time.perf_counter()
        with peak_memory(torch.device("cpu")) as peak:
            arrays = build_arrays(root, VERSION, config.num_sweeps)
        seconds = time.perf_counter() - started
    kept = sum(array.nbytes for array in arrays.values())
    records = ", ".join(f"{count} {name}" for name, count in counts.items() if count > 1000)
    return "\n".join(
        [
            f"index of {config.scenes} generated scenes: {records or 'few records'}",
            f"tables on disk    {size / MEBIBYTE:9.0f} MiB",
            f"index             {kept / MEBIBYTE:9.0f} MiB",
            f"peak memory       {peak.above / MEBIBYTE:9.0f} MiB above the start",
            f"time              {seconds:9.0f} s",
        ]
    )


def write_tables(folder: Path, scenes: int) -> dict[str, int]:
    """Write tables of nuScenes' proportions: a vehicle that drives straight on; returns the records of each table."""
    folder.mkdir(parents=True)
    makers: dict[str, Callable[[], Rows]] = {
        "sensor": _sensors,
        "calibrated_sensor": lambda: (row for scene in range(scenes) for row in _mountings(scene)),
        "scene": lambda: ({"token": _token("scene", scene), "name": f"scene-{scene:04}"} for scene in range(scenes)),
        "sample": lambda: (row for scene in range(scenes) for row in _samples(scene)),
        "sample_data": lambda: (row for scene in range(scenes) for row in _data(scene)),
        "ego_pose": lambda: (_pose(row) for scene in range(scenes) for row in _data(scene)),
        "category": lambda: iter([{"token": "category", "name": "vehicle.car"}]),
        "instance": lambda: (row for scene in range(scenes) for row in _instances(scene)),
        "sample_annotation": lambda: (row for scene in range(scenes) for row in _annotations(scene)),
    }
    return {name: _write(folder / f"{name}.json", make()) for name, make in makers.items()}


def _write(path: Path, rows: Rows) -> int:
    count = 0
    with path.open("w") as file:
        for count, row in enumerate(rows, start=1):
            file.write(("[\n" if count == 1 else ",\n") + json.dumps(row, indent=0))
        file.write("\n]")
    return count


def _token(*parts: object) -> str:
    """As long as those of nuScenes."""
    return "-".join(map(str, parts)).ljust(32, "x")


def _sensors() -> Rows:
    for channel in RATES:
        modality = {"C": "camera", "L": "lidar", "R": "radar"}[channel[0]]
        yield {"token": _token(channel), "channel": channel, "modality": modality}


def _mountings(scene: int) -> Rows:
    for channel in RATES:
        intrinsic = [[1000.0, 0.0, 800.0], [0.0, 1000.0, 450.0], [0.0, 0.0, 1.0]] if channel.startswith("CAM") else []
        yield {
            "token": _token("mount", scene, channel),
            "sensor_token": _token(channel),
            "rotation": [0.5, -0.5, 0.5, -0.5],
            "translation": [1.0, 0.0, 1.5],
            "camera_intrinsic": intrinsic,
        }


def _samples(scene: int) -> Rows:
    for number in range(SAMPLES):
        yield {
            "token": _token("sample", scene, number),
            "timestamp": _stamp(scene, number / 2),
            "prev": _token("sample", scene, number - 1) if number else "",
            "next": _token("sample", scene, number + 1) if number + 1 < SAMPLES else "",
            "scene_token": _token("scene", scene),
        }


def _data(scene: int) -> Rows:
    for channel, each in RATES.items():
        last = (SAMPLES - 1) * each
        for number in range(last + 1):
            key_frame = number % each == 0
            token, folder = _token("data", scene, channel, number), "samples" if key_frame else "sweeps"
            yield {
                "token": token,
                "sample_token": _token("sample", scene, -(-number // each)),
                "ego_pose_token": token,
                "calibrated_sensor_token": _token("mount", scene, channel),
                "timestamp": _stamp(scene, number / each / 2),
                "fileformat": "jpg" if channel.startswith("CAM") else "pcd",
                "is_key_frame": key_frame,
                "height": 900 if channel.startswith("CAM") else 0,
                "width": 1600 if channel.startswith("CAM") else 0,
                "filename": f"{folder}/{channel}/n008-2018-08-01-15-16-36-0400__{token}.bin",
                "prev": _token("data", scene, channel, number - 1) if number else "",
                "next": _token("data", scene, channel, number + 1) if number < last else "",
            }


def _pose(data: dict[str, Any]) -> dict[str, Any]:
    metres = (data["timestamp"] % 100_000_000) * 1e-5
    return {
        "token": data["ego_pose_token"],
        "timestamp": data["timestamp"],
        "rotation": [0.9238795325112867, 0.0, 0.0, 0.3826834323650898],
        "translation": [600.0 + metres, 1600.0 + metres, 0.0],
    }


def _instances(scene: int) -> Rows:
    for number in range(ANNOTATIONS):
        yield {"token": _token("instance", scene, number), "category_token": "category", "nbr_annotations": SAMPLES}


def _annotations(scene: int) -> Rows:
    for number in range(ANNOTATIONS):
        for sample in range(SAMPLES):
            yield {
                "token": _token("ann", scene, number, sample),
                "sample_token": _token("sample", scene, sample),
                "instance_token": _token("instance", scene, number),
                "visibility_token": "4",
                "attribute_tokens": ["cb5118da1ab342aa947717dc53544259"],
                "translation": [610.0 + sample, 1600.0 + number, 1.0],
                "size": [1.9, 4.5, 1.6],
                "rotation": [0.9238795325112867, 0.0, 0.0, 0.3826834323650898],
                "prev": _token("ann", scene, number, sample - 1) if sample else "",
                "next": _token("ann", scene, number, sample + 1) if sample + 1 < SAMPLES else "",
                "num_lidar_pts": 12,
                "num_radar_pts": 1,
            }


def _stamp(scene: int, seconds: float) -> int:
    """[us]"""
    return 1_533_000_000_000_000 + scene * 100_000_000 + round(seconds * 1e6)

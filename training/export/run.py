"""From a student's checkpoint to the bundle that the node runs."""

import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.model.preprocess import preprocess
from bevdistill_ros.model.records import CameraInput
from bevdistill_ros.model.student import StudentSettings
from training.data.coverage import check_coverage
from training.data.dataset import NuScenesDataset
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.export.engines import add_network, engines_from, prove
from training.weights.checkpoint import read_checkpoint, read_config
from training.weights.model import load_student


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `bevdistill export` writes."""

    checkpoint: str  # of a student
    output: str  # folder of the bundle; a bundle that is there already is replaced
    name: str = "bevformer"  # of the model
    version: str = "1"  # of the weights
    engines: str = "onnx"  # comma-separated: onnx, openvino (both read the same file, each must prove itself); or none
    sampling: Literal["grid_sample", "gather"] = "grid_sample"  # of the exported network; gather for TensorRT
    int8_frames: int = 0  # also export in int8, calibrated on so many frames of the training split; 0 for none
    root: Path | None = None  # of the data set of the training, where it has moved since; null is where it was


def run_export(config: ExportConfig) -> str:
    """Write the bundle of a checkpoint; returns the closing text.

    Raises:
        ValueError: The checkpoint holds no student, its data set is gone, or the folder is not a bundle.
    """
    engines = engines_from(config.engines)
    student_config, student = load_student(config.checkpoint)
    content = read_checkpoint(config.checkpoint)
    settings = read_config(content)
    data = settings["data"]
    index = load_index(
        DataConfig(
            root=config.root or Path(data["root"]),
            version=data["version"],
            num_sweeps=data["num_sweeps"],
            cache_dir=Path(data["cache_dir"]) if data["cache_dir"] else None,
        )
    )
    check_coverage(index, data["train_split"], student_config, refuse=False)
    add_engines = partial(
        add_network,
        student=student.eval(),
        sampling=config.sampling,
        calibration=_calibration(index, data["train_split"], student_config, config.int8_frames),
    )
    path = save_bundle(
        config.output,
        student,
        name=config.name,
        version=config.version,
        rig=training_rig(index, data["train_split"], student_config),
        provenance=_provenance(content, settings),
        add_engines=add_engines if engines else None,
    )
    return "\n".join([f"bundle: {path}", *prove(path, engines)])


def training_rig(index: NuScenesIndex, split: str, student: StudentSettings) -> CameraRig:
    """The cameras of a split, for images of the student's size.

    The index carries each camera to the stamp of its sample by the vehicle's motion, so the mountings are taken where
    the vehicle moved least.

    Raises:
        ValueError: No sample of the split has all cameras of the student.
    """
    unknown = [name for name in student.cameras if name not in index.cameras]
    columns = [index.cameras.index(name) for name in student.cameras if name in index.cameras]
    samples = index.samples_of(split)
    complete = samples[(index.camera_files[samples][:, columns] != b"").all(axis=1)]
    if unknown or not len(complete):
        raise ValueError(
            f"no sample of split '{split}' has all cameras of the student, {', '.join(student.cameras)}; the data set "
            f"has {', '.join(index.cameras)}"
        )
    places = index.global_from_ego[:, :3, 3]
    moved = np.linalg.norm(places[complete] - places[index.previous[complete]], axis=1)
    sample = complete[np.where(index.previous[complete] >= 0, moved, np.inf).argmin()]
    _, intrinsics, _ = preprocess(
        [None] * len(columns),
        torch.from_numpy(index.intrinsics[sample, columns]),
        torch.from_numpy(index.mountings_of(sample, columns)),
        index.sizes_of(sample, columns),
        target=student.images,
    )
    return CameraRig(
        names=student.cameras,
        intrinsics=intrinsics,
        ego_from_camera=torch.from_numpy(index.ego_from_camera[sample, columns]),
        image_size=student.images.size,
    )


def _calibration(index: NuScenesIndex, split: str, student: StudentSettings, count: int) -> list[CameraInput]:
    """So many frames, spread over a split."""
    if not count:
        return []
    dataset = NuScenesDataset(index, split, cameras=student.cameras, target=student.images, num_sweeps=0)
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    return [dataset[int(number)].cameras for number in chosen]


def _provenance(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, str]:
    return {
        "distillation": settings["distill"]["method"],
        "data": f"{settings['data']['version']}/{settings['data']['train_split']}",
        "steps": str(content.get("global_step", settings["optim"]["steps"])),
        "revision": revision(),
    }


def revision() -> str:
    """Commit of the source tree; empty where it isn't a git checkout."""
    source = Path(__file__).parents[2]
    if shutil.which("git") is None or not (source / ".git").exists():
        return ""
    command = ["git", "-C", str(source), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

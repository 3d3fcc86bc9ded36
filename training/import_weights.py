"""`bevdistill import-weights`: a public BEVFormer or BEVDistill checkpoint as a bundle."""

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import save_bundle
from bevdistill_ros.model.deformable import Sampling
from bevdistill_ros.model.preprocess import preprocess
from bevdistill_ros.model.public_config import LEVEL_LIDAR, PUBLIC_CAMERAS, MemoryMode, PublicStudentConfig
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig, load_index
from training.export.engines import add_network, engines_from, prove
from training.export.run import revision, training_rig
from training.weights.public import public_student, read_public
from training.weights.public_kinds import PublicKind

MAX_RIG_BYTES = 1_000_000
MAX_TURN = math.radians(5.0)  # between the axes of a data set's LiDAR and those that the weights know
LIDAR_HEIGHT = 1.84  # [m] above the road, where nuScenes has it

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What `bevdistill import-weights` reads and writes."""

    checkpoint: str  # .pth of the public code
    kind: PublicKind  # which of the published models it holds
    output: str  # folder of the bundle; a bundle that is there already is replaced
    root: Path | None = None  # data set whose cameras and LiDAR mounting go with the bundle
    version: str = "v1.0-trainval"  # folder of its tables
    split: str = "val"  # of which the cameras are taken
    rig: str = ""  # instead of root: rig file (YAML) of a vehicle, its cameras named as in nuScenes
    # x y z [m] and quaternion w x y z of the weights' own frame (x right, y ahead, 1.84 m above the road) in the ego
    # frame; empty: the LiDAR's mounting in the data set, or with a rig 0.94 m ahead of the ego origin and level
    ego_from_lidar: tuple[float, ...] = ()
    memory: MemoryMode = "warp"  # how the past is carried along: in metres, or rotate_shift as in the published figures
    engines: str = "none"  # comma-separated: onnx, openvino (both read the same file, each must prove itself); or none
    sampling: Sampling = "grid_sample"  # of the exported network; gather for TensorRT
    licence: str = "not stated"  # terms of the weights, for the bundle's provenance
    name: str = ""  # of the model; empty is the kind
    model_version: str = "1"  # of the weights

    def __post_init__(self) -> None:
        if (self.root is None) == (not self.rig):
            raise ValueError("give either root, a data set with the cameras of the vehicle, or rig, a rig file")
        if len(self.ego_from_lidar) not in (0, 7):
            raise ValueError(
                f"ego_from_lidar must be 7 numbers, x y z and a quaternion w x y z, but is {len(self.ego_from_lidar)}"
            )


def run_import(config: ImportConfig) -> str:
    """Write the bundle of a public checkpoint; returns the closing text.

    Raises:
        ValueError: The checkpoint can't be read, is of another kind or another network, or the cameras do not fit.
    """
    path, engines = Path(config.checkpoint), engines_from(config.engines)
    state, classes = read_public(path)
    index = None if config.root is None else _index_of(config, config.root)
    settings = _settings_for(config, index)
    student = public_student(state, config.kind, classes=classes, source=path, **settings)
    if index is None:
        rig = _rig_for(_read_rig(config.rig), student.config)
    else:
        rig = training_rig(index, config.split, student.config)
    bundle = save_bundle(
        config.output,
        student,
        name=config.name or config.kind,
        version=config.model_version,
        rig=rig,
        provenance={
            "imported": path.name,
            "sha256": _sha256(path),
            "kind": config.kind,
            "licence": config.licence,
            "revision": revision(),
        },
        add_engines=partial(add_network, student=student, sampling=config.sampling) if engines else None,
    )
    return "\n".join([f"bundle: {bundle}", *prove(bundle, engines)])


def _index_of(config: ImportConfig, root: Path) -> NuScenesIndex:
    return load_index(DataConfig(root=root, version=config.version, num_sweeps=0))


def _settings_for(config: ImportConfig, index: NuScenesIndex | None) -> dict[str, Any]:
    """Settings that follow from the vehicle: its cameras, and where the weights' frame is on it."""
    if index is not None:
        names: Sequence[str] = index.cameras
    else:
        names = _read_rig(config.rig).names
    cameras = tuple(name for name in PUBLIC_CAMERAS if name in names)
    if not cameras:
        raise ValueError(
            f"none of the cameras {', '.join(names)} has a name of nuScenes, by which the weights know where a camera "
            f"looks; name them {', '.join(PUBLIC_CAMERAS)}"
        )
    return {"cameras": cameras, "memory": config.memory, "ego_from_model": _ego_from_model(config, index)}


def _ego_from_model(config: ImportConfig, index: NuScenesIndex | None) -> tuple[float, ...]:
    """Where the weights' frame is on the vehicle: 16 numbers, row by row."""
    if config.ego_from_lidar:
        given = np.array(config.ego_from_lidar, dtype=np.float64)
        return tuple(transform_from(given[3:], given[:3]).flatten().tolist())
    if index is None:
        return LEVEL_LIDAR
    sample = index.samples_of(config.split)[0]
    pose = index.ego_from_sweep[index.sweeps_of(int(sample)).start].copy()
    level = np.array(LEVEL_LIDAR).reshape(4, 4)
    turn = math.acos(np.clip((np.trace(level[:3, :3].T @ pose[:3, :3]) - 1) / 2, -1, 1))
    if turn > MAX_TURN:
        _LOG.warning(
            "the LiDAR of the data set is turned by %.0f degrees against x right, y ahead, the axes of the weights; a "
            "level frame at its place, %.2f m above the road, is used instead (ego_from_lidar sets another)",
            math.degrees(turn),
            LIDAR_HEIGHT,
        )
        pose[:3, :3], pose[2, 3] = level[:3, :3], LIDAR_HEIGHT
    return tuple(pose.flatten().tolist())


def _read_rig(path: str) -> CameraRig:
    try:
        content = yaml.safe_load(read_text(path, what="rig", max_bytes=MAX_RIG_BYTES))
    except yaml.YAMLError as error:
        raise ValueError(f"rig {path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"rig {path} holds no rig; it needs the keys image_size and cameras")
    try:
        return CameraRig.from_dict(content)
    except ValueError as error:
        raise ValueError(f"rig {path}: {error}") from error


def _rig_for(rig: CameraRig, student: PublicStudentConfig) -> CameraRig:
    """The cameras of a rig file, for images of the student's size."""
    own = rig.select(student.cameras)
    count = len(own.names)
    _, intrinsics, _ = preprocess(
        [None] * count, own.intrinsics, own.ego_from_camera, [own.image_size] * count, target=student.images
    )
    return replace(own, intrinsics=intrinsics, image_size=student.images.size)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

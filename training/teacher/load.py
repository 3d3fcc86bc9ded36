"""Trained models and their data, read back from checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.inference.manifest import dataclass_from, plain_from
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from training.data.dataset import DataConfig, NuScenesDataset, NuScenesIndex
from training.data.sample import Sample
from training.teacher.frozen import FrozenTeacher
from training.teacher.mmdet3d import NO_DETECTION, load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.teacher.object_dgcnn import ObjectDgcnn, TeacherConfig
from training.weights.checkpoint import load_weights, read_checkpoint, read_config, weights_in

Config = TypeVar("Config", TeacherConfig, StudentConfig)
Model = TypeVar("Model", bound=nn.Module)


def dataset_for(
    data: DataConfig,
    student: StudentConfig,
    index: NuScenesIndex,
    split: str,
    *,
    with_images: bool,
    with_points: bool,
    augment: Callable[[Sample], Sample] | None = None,
) -> NuScenesDataset:
    """The data set of a split as a student sees it: its cameras at its image size."""
    return NuScenesDataset(
        index,
        split,
        cameras=student.cameras,
        height=student.image_height,
        width=student.image_width,
        num_sweeps=data.num_sweeps,
        clip_length=data.clip_length if student.temporal else 1,
        with_images=with_images,
        with_points=with_points,
        augment=augment,
    )


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """A frozen teacher, ours or mmdet3d's, and what it must be fed."""

    teacher: FrozenTeacher
    grid: BevGrid  # of its maps
    num_sweeps: int  # LiDAR sweeps before the key frame that it was trained with
    least_score: float = 0.0  # what scores lower is no detection


def trained_teacher(path: Path | str, mmdet3d: Mmdet3dConfig, *, grid: BevGrid | None = None) -> TrainedTeacher:
    """The teacher of a checkpoint.

    Args:
        path: The checkpoint.
        mmdet3d: Names the configuration of a detector of mmdet3d; without one the teacher is ours.
        grid: Where the map of a detector of mmdet3d is wanted; ours come on the grid they were trained with.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or it holds no such teacher.
    """
    if mmdet3d.config:
        detector = load_mmdet3d_teacher(mmdet3d, path, grid=grid)
        teacher = FrozenTeacher(detector, channels=detector.channels, needs_mounting=True)
        return TrainedTeacher(
            teacher=teacher,
            grid=detector.grid,
            num_sweeps=detector.facts.num_sweeps,
            least_score=NO_DETECTION,
        )
    config, teacher = load_teacher(path)
    return TrainedTeacher(teacher=teacher, grid=config.grid, num_sweeps=sweeps_of_teacher(path))


def load_teacher(path: Path | str) -> tuple[TeacherConfig, FrozenTeacher]:
    """The teacher of a checkpoint, frozen, and its configuration.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or it holds no teacher.
    """
    config, model = _load(path, "teacher", TeacherConfig, ObjectDgcnn)
    return config, FrozenTeacher(model, channels=config.embed_dim)


def load_student(path: Path | str) -> tuple[StudentConfig, BevFormer]:
    """The student of a checkpoint, in eval mode, and its configuration.

    Raises:
        ValueError: There is no such checkpoint, it is damaged, or it holds no student.
    """
    config, model = _load(path, "student", StudentConfig, BevFormer)
    return config, model.eval()


def sweeps_of_teacher(path: Path | str) -> int:
    """LiDAR sweeps before the key frame that the teacher of a checkpoint was trained with."""
    return int(read_config(read_checkpoint(path))["data"]["num_sweeps"])


def _load(path: Path | str, role: str, kind: type[Config], build: Callable[[Config], Model]) -> tuple[Config, Model]:
    content = read_checkpoint(path)
    settings = read_config(content)
    if settings["role"] != role:
        raise ValueError(f"{path} holds a {settings['role']}, but a {role} is needed here")
    config = config_from(kind, settings[role], f"{role} in {path}")
    model = build(config)
    load_weights(model, weights_in(content), path)
    return config, model


def config_from(kind: type[Config], content: Mapping[str, Any], where: str) -> Config:
    """A model's configuration from plain values; settings that are younger than the values take their defaults."""
    return dataclass_from(kind, {**plain_from(kind()), **content}, where)

"""Trained models and their data, read back from checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from training.checkpoint import MODEL_PREFIX, load_weights, read_checkpoint, read_config
from training.data.nuscenes import DataConfig, NuScenesDataset, NuScenesIndex
from training.data.sample import Sample
from training.teacher.frozen import FrozenTeacher
from training.teacher.object_dgcnn import ObjectDgcnn, TeacherConfig


def dataclass_from(kind: type, content: dict[str, Any]) -> Any:
    """A (nested) configuration dataclass from plain dicts, with jsonargparse's type checks."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    return parser.instantiate_classes(parser.parse_object({"value": content})).value


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


def load_teacher(path: Path | str) -> FrozenTeacher:
    """The teacher of a checkpoint, frozen."""
    config, model = _load(path, "teacher")
    return FrozenTeacher(model, channels=config.embed_dim)


def load_student(path: Path | str) -> tuple[StudentConfig, BevFormer]:
    """The student of a checkpoint, in eval mode, and its configuration."""
    config, model = _load(path, "student")
    return config, model.eval()


def _load(path: Path | str, role: str) -> tuple[Any, Any]:
    content = read_checkpoint(path)
    settings = read_config(content)
    if settings["role"] != role:
        raise ValueError(f"{path} holds a {settings['role']}, but a {role} is needed here")
    kind, build = (TeacherConfig, ObjectDgcnn) if role == "teacher" else (StudentConfig, BevFormer)
    config = dataclass_from(kind, settings[role])
    model = build(config)
    state = content["state_dict"]
    weights = {name.removeprefix(MODEL_PREFIX): value for name, value in state.items() if name.startswith(MODEL_PREFIX)}
    load_weights(model, weights, path)
    return config, model

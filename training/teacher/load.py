"""Trained models and their data, read back from checkpoints."""

from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.core.grid import BevGrid
from training.teacher.frozen import FrozenTeacher
from training.teacher.mmdet3d import NO_DETECTION, load_mmdet3d_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.teacher.object_dgcnn import ObjectDgcnn, TeacherConfig
from training.weights.checkpoint import read_checkpoint, read_config
from training.weights.model import load_model


@dataclass(frozen=True, kw_only=True)
class TrainedTeacher:
    """A frozen teacher, ours or mmdet3d's, and its inputs."""

    teacher: FrozenTeacher
    grid: BevGrid  # of its maps
    num_sweeps: int  # LiDAR sweeps before the key frame that it was trained with
    least_score: float = 0.0  # detections below this score are ignored


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
    config, model = load_model(path, "teacher", TeacherConfig, ObjectDgcnn)
    return config, FrozenTeacher(model, channels=config.embed_dim)


def sweeps_of_teacher(path: Path | str) -> int:
    """LiDAR sweeps before the key frame that the teacher of a checkpoint was trained with."""
    return int(read_config(read_checkpoint(path))["data"]["num_sweeps"])

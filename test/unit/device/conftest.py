"""A batch of two frames, with boxes and LiDAR, and a training step on it; nothing is read from a checkpoint."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.sample import Batch, collate
from training.run.data import train_dataset
from training.run.module import StudentTraining
from training.teacher.frozen import FrozenTeacher
from training.teacher.object_dgcnn import ObjectDgcnn

MakeModule = Callable[..., StudentTraining]


@pytest.fixture(scope="session")
def batch(make_run: Callable[..., Any]) -> Batch:
    """Two frames of the tiny database, the second with one frame of history."""
    config = make_run(
        Path("unused"),
        **{"student.temporal": True, "data.clip_length": 2, "distill.method": "set2set", "teacher_checkpoint": "none"},
    )
    dataset = train_dataset(config)
    return collate([dataset[0], dataset[1]])


@pytest.fixture
def make_module(make_run: Callable[..., Any]) -> MakeModule:
    """Makes the training of a tiny student with a fresh teacher; keywords are settings by their keys."""

    def make(method: str = "none", **changes: Any) -> StudentTraining:
        torch.manual_seed(0)
        config = make_run(
            Path("unused"),
            **{
                "student.temporal": True,
                "data.clip_length": 2,
                "distill.method": method,
                "teacher_checkpoint": "none",
                "criterion.heatmap": 1.0,
                "run.balance_every": 0,
                **changes,
            },
        )
        teacher = FrozenTeacher(ObjectDgcnn(config.teacher), channels=config.teacher.embed_dim)
        return StudentTraining(config, None if method == "none" else teacher)

    return make

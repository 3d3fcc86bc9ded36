"""Training on a real device: `make test-gpu` runs it on a GPU, and the case on a CPU shows that a test is right."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.data.sample import Batch
from training.distill.build import METHODS, RECIPES
from training.run.fit import fit
from training.run.module import StudentTraining, TeacherTraining
from training.weights.checkpoint import read_checkpoint

MakeModule = Callable[..., StudentTraining]
MakeRun = Callable[..., Any]
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


def on_gpu(method: str) -> Any:
    return pytest.param("cuda", method, marks=pytest.mark.gpu)


def check_step(module: Any, batch: Batch, device: str) -> float:
    """A training step; all gradients are on the device and finite. Gives the loss."""
    module.gradient_balance.is_due = lambda step: False
    module.to(device).train()
    loss = module.training_step(batch.to(device), 0)
    loss.backward()
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    assert {gradient.device.type for gradient in gradients} == {device}
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return float(loss.detach())


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    ("device", "method"), [("cpu", "set2set"), *[on_gpu(name) for name in METHODS if name not in RECIPES]]
)
def test_a_step_of_each_method(device: str, method: str, make_module: MakeModule, batch: Batch) -> None:
    """Of a temporal student; without dropout the loss is that of the CPU."""
    found, expected = (
        check_step(make_module(method, **{"student.dropout": 0.0}), batch, place) for place in (device, "cpu")
    )
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("device", [CUDA])
def test_a_step_of_a_single_frame_student_and_of_a_teacher(
    device: str, make_module: MakeModule, make_run: MakeRun, batch: Batch
) -> None:
    single = replace(batch, history=(), history_present=batch.history_present[:0])
    check_step(make_module(**{"student.temporal": False, "data.clip_length": 1}), single, device)
    torch.manual_seed(0)
    check_step(TeacherTraining(make_run(Path("unused"), role="teacher", **{"run.balance_every": 0})), batch, device)


@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_a_short_distillation_is_resumed(
    accelerator: str, make_run: MakeRun, tiny_teacher: Path, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {
        "distill.method": "bevdistill",
        "teacher_checkpoint": str(tiny_teacher),
        "run.accelerator": accelerator,
        "run.checkpoint_every": 1,
    }
    first = fit(make_run(tmp_path / "run", **changes, **{"optim.steps": 1}))
    assert read_checkpoint(first)["global_step"] == 1
    last = fit(make_run(tmp_path / "run", **changes, **{"optim.steps": 2, "run.resume": True}))
    assert read_checkpoint(last)["global_step"] == 2

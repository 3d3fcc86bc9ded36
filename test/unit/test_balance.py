import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.run.balance import dominant_terms, gradient_norms
from training.run.config import TrainConfig
from training.run.fit import fit


def test_gradient_norms_are_those_at_the_shared_map() -> None:
    shared = torch.tensor([3.0, 4.0], requires_grad=True)
    terms = {
        "square": 0.5 * shared.square().sum(),  # gradient (3, 4)
        "scaled": 2.0 * shared.sum(),  # gradient (2, 2)
        "other": torch.ones(1, requires_grad=True).sum(),
        "fixed": torch.tensor(7.0),
    }
    norms = gradient_norms(terms, shared)
    assert norms == pytest.approx({"square": 5.0, "scaled": 8**0.5, "other": 0.0, "fixed": 0.0})
    assert shared.grad is None
    sum(terms.values()).backward()  # the graph is still there


def test_terms_over_ten_times_the_detection_loss_are_found() -> None:
    weighted = {name: torch.tensor(value) for name, value in {"box": 1.0, "heatmap": 1.0, "a": 21.0, "b": 19.0}.items()}
    assert dominant_terms(weighted, ("classification", "box", "heatmap")) == pytest.approx({"a": 10.5})


def test_a_dominant_term_is_told_once(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {
        "distill.method": "fitnet",
        "distill.fitnet.weight": 1e6,
        "teacher_checkpoint": str(tiny_teacher),
        "optim.steps": 3,
        "run.balance_every": 1,
    }
    with caplog.at_level(logging.WARNING, logger="training"):
        fit(make_run(tmp_path / "run", **changes))
    (line,) = [record.message for record in caplog.records if "weighs" in record.message]
    assert line.startswith("step 1: fitnet weighs ")
    assert line.endswith("times the detection loss; lower its weight")

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training.run.config import TrainConfig
from training.run.cost import Cost, cost_of, peak_resident
from training.run.fit import fit
from training.weights.checkpoint import read_checkpoint

HOUR = 3600.0


def test_cost_adds_up_over_resumptions(make_run: Callable[..., TrainConfig], tmp_path: Path) -> None:
    run = {"optim.schedule": "constant", "optim.warmup_steps": 0}
    checkpoint = fit(make_run(tmp_path / "run", **run, **{"optim.steps": 2}))
    spent = cost_of(checkpoint)
    assert 0 < spent["train_seconds"] < HOUR
    assert spent["peak_memory_bytes"] > 1e7
    # The same run as if its two steps had taken an hour and a terabyte, and had been stopped then.
    content = read_checkpoint(checkpoint)
    content["callbacks"][Cost.state_key] = {"train_seconds": HOUR, "peak_memory_bytes": 10**12}
    content["bevdistill_config"] = content["bevdistill_config"].replace('"steps": 2', '"steps": 3')
    torch.save(content, checkpoint)
    whole = cost_of(fit(make_run(tmp_path / "run", **run, **{"optim.steps": 3, "run.resume": True})))
    assert HOUR < whole["train_seconds"] < 2 * HOUR
    assert whole["peak_memory_bytes"] == 10**12


def test_a_program_does_not_inherit_the_peak_of_its_parent() -> None:
    held = b"1" * 2**30
    code = "from training.run.cost import peak_resident; print(peak_resident())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 2**24 < int(printed) < len(held) <= peak_resident()


def test_checkpoint_without_cost_is_told(tmp_path: Path, tiny_teacher: Path) -> None:
    content = read_checkpoint(tiny_teacher)
    content["callbacks"] = {}
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="does not say what its training cost; retrain it"):
        cost_of(tmp_path / "old.ckpt")

"""A run on two processes, as torchrun and SLURM start them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training.run.callbacks import LOSSES
from training.weights.checkpoint import read_checkpoint

TIMEOUT = 240  # [s]


def torchrun(command: list[str]) -> list[subprocess.Popen[str]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [start([*launcher, *command], {})]


def slurm(command: list[str]) -> list[subprocess.Popen[str]]:
    """What srun tells two tasks on one machine."""
    job = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1"}
    ranks = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "SLURM_JOB_NAME": "x"} for rank in "01"]
    return [start([sys.executable, *command], job | rank) for rank in ranks]


def start(command: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("launch", [torchrun, slurm])
def test_two_processes_make_one_run(
    launch: Callable[[list[str]], list[subprocess.Popen[str]]],
    train_arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    changes = {"role": "teacher", "augment.paste": {}, "optim.class_balanced": True, "optim.batch_size": 1}
    changes |= {"run.devices": 2, "run.progress": False, "data.cache_dir": str(tmp_path / "cache")}
    processes = launch(["-m", "training", "train", *train_arguments(tmp_path / "run", **changes)])
    outputs = [process.communicate(timeout=TIMEOUT) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    assert sum(out.count("checkpoint: ") for out, _ in outputs) == 1
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 2
    assert len((tmp_path / "run" / LOSSES).read_text().splitlines()) == 2
    # Both waited for one index and one bank of objects.
    assert len(list((tmp_path / "cache").iterdir())) == 2

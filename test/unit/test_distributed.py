"""A run on two processes, as torchrun and SLURM start them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training.run.callbacks import LOSSES
from training.weights.checkpoint import read_checkpoint

TIMEOUT = 240  # [s]
ROUNDS = int(os.environ.get("BEVDISTILL_ROUNDS", "1"))  # of ending and resuming; 20 before a release
STEPS = 30

Launch = Callable[[list[str]], list[subprocess.Popen[str]]]


def torchrun(command: list[str]) -> list[subprocess.Popen[str]]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [start([*launcher, *command], {})]


def slurm(command: list[str]) -> list[subprocess.Popen[str]]:
    """What srun sets for two tasks on one machine."""
    job = {"SLURM_JOB_ID": "4242", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1"}
    ranks = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "SLURM_JOB_NAME": "x"} for rank in "01"]
    return [start([sys.executable, *command], job | rank) for rank in ranks]


def start(command: list[str], variables: dict[str, str]) -> subprocess.Popen[str]:
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
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


@pytest.fixture
def distilled(
    train_arguments: Callable[..., list[str]], tiny_teacher: Path, tmp_path: Path
) -> Callable[..., list[str]]:
    """Makes the command line of a temporal student that is distilled, with a data worker and averaged weights."""
    changes = {
        "student.temporal": True,
        "data.clip_length": 2,
        "distill.method": "bevdistill",
        "teacher_checkpoint": str(tiny_teacher),
        "augment.photometric": {},
        "optim.batch_size": 1,
        "optim.accumulate": 2,
        "optim.ema_decay": 0.9,
        "optim.steps": STEPS,
        "run.num_workers": 1,
    }
    return lambda name, **more: ["-m", "training", "train", *train_arguments(tmp_path / name, **(changes | more))]


def lines_of(run: Path) -> list[str]:
    file = run / LOSSES
    return file.read_text().splitlines() if file.exists() else []


def end_at(processes: list[subprocess.Popen[str]], run: Path, step: int) -> list[str]:
    """Signal the process groups of a run when it has done a step; returns what was printed as errors."""
    while len(lines_of(run)) < step and processes[0].poll() is None:
        time.sleep(0.01)
    for process in processes:
        os.killpg(process.pid, signal.SIGTERM)
    return [process.communicate(timeout=TIMEOUT)[1] for process in processes]


def assert_same_run(first: Path, second: Path) -> None:
    """Losses and weights of two runs are the same to the last bit."""
    assert lines_of(first) == lines_of(second)
    one, two = (read_checkpoint(run / "last.ckpt") for run in (first, second))
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, two[part][name]) for name, value in one[part].items())


def alone(command: list[str]) -> list[subprocess.Popen[str]]:
    """One process, without a launcher."""
    return [start([sys.executable, *command], {})]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("launch", [alone, torchrun, slurm])
def test_a_run_whose_process_group_is_asked_to_end_resumes_bit_exactly(
    launch: Launch, distilled: Callable[..., list[str]], tmp_path: Path
) -> None:
    """SIGTERM to all processes, data workers too, at a random step, as scancel, time limits and docker send it."""
    devices = {"run.devices": 1 if launch is alone else 2}
    for process in launch(distilled("whole", **devices)):
        assert process.communicate(timeout=TIMEOUT) is not None
    random = np.random.default_rng(ROUNDS)
    for number in range(ROUNDS):
        run, step = tmp_path / f"cut{number}", int(random.integers(1, STEPS - 3))
        started = launch(distilled(run.name, **devices))
        errors = end_at(started, run, step)
        done = read_checkpoint(run / "last.ckpt")["global_step"]
        assert step <= done < STEPS, errors
        assert len(lines_of(run)) == done
        reported = [line for text in errors for line in text.splitlines() if line.startswith("bevdistill: ")]
        assert reported == [
            f"bevdistill: interrupted; {run}/last.ckpt is saved; --run.resume true resumes bit-exactly from it"
        ]
        for process in launch(distilled(run.name, **devices, **{"run.resume": True})):
            process.communicate(timeout=TIMEOUT)
        assert_same_run(tmp_path / "whole", run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_launcher_with_another_number_of_processes_is_refused(
    distilled: Callable[..., list[str]], tmp_path: Path
) -> None:
    (process,) = torchrun(distilled("run"))
    errors = process.communicate(timeout=TIMEOUT)[1]
    assert errors.count("torchrun started 2 processes, but run.devices (1) times run.num_nodes (1) is 1") == 1
    assert "set run.devices to 2 and run.num_nodes to 1" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_data_worker_is_one_line_with_the_remedy(distilled: Callable[..., list[str]], tmp_path: Path) -> None:
    (process,) = alone(distilled("run", **{"optim.steps": 3000}))
    while len(lines_of(tmp_path / "run")) < 2:
        time.sleep(0.05)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    errors = process.communicate(timeout=TIMEOUT)[1].splitlines()
    assert process.returncode == 1
    assert errors[-1].startswith(
        "bevdistill: a data worker was killed or died, most often for lack of memory: lower run.num_w"
    )
    assert not any("Traceback" in line for line in errors)

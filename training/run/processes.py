"""The processes of a run: as many as the settings say."""

import os
import time

from training.run.config import RunConfig

_GRACE_S = 20.0  # for the process that says what is wrong


def check_processes(run: RunConfig) -> None:
    """Refuse a launcher's number of processes that is not that of the settings: each would train alone.

    Raises:
        ValueError: torchrun or srun started another number of processes.
        SystemExit: The same in the other processes, of which one is enough to say it.
    """
    launcher, total, local, rank = _launched()
    expected = run.devices * run.num_nodes
    if not total or total == expected:
        return
    if rank:
        time.sleep(_GRACE_S)  # torchrun ends all processes when the first one has ended
        raise SystemExit(1)
    raise ValueError(
        f"{launcher} started {total} processes, but run.devices ({run.devices}) times run.num_nodes ({run.num_nodes}) "
        f"is {expected}; set run.devices to {local} and run.num_nodes to {total // max(local, 1)}"
    )


def _launched() -> tuple[str, int, int, int]:
    """Launcher, its processes in all and on this machine, and the rank of this one; 0 processes without a launcher."""

    def number(name: str) -> int:
        return int(os.environ.get(name, "0"))

    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", number("WORLD_SIZE"), number("LOCAL_WORLD_SIZE"), number("RANK")
    total, nodes = number("SLURM_STEP_NUM_TASKS"), max(number("SLURM_STEP_NUM_NODES"), 1)
    return "srun", total if total > 1 else 0, total // nodes, number("SLURM_PROCID")

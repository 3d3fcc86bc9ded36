"""Data workers and the signals that end a run."""

import multiprocessing
import os
import signal
import subprocess
import time
from typing import Any

import pytest
from torch.utils.data import Dataset

from training.data.loader import SteadyLoader


class Slow(Dataset[Any]):
    """Numbers, one every 20 ms."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        time.sleep(0.02)
        return index


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_live_through_a_signal_to_their_group_and_end_with_the_loader(number: signal.Signals) -> None:
    loader = SteadyLoader(Slow(), batch_size=1, num_workers=2, collate_fn=lambda items: items[0])
    iterator = iter(loader)
    workers = multiprocessing.active_children()
    for worker in workers:  # also in their first moment
        subprocess.run(["kill", f"-{number}", str(worker.pid)], check=True)
    assert list(iterator) == list(range(8))
    for worker in workers:
        worker.join(5)
        assert not worker.is_alive()


def test_a_worker_that_hangs_can_be_terminated_by_its_parent() -> None:
    iterator = iter(SteadyLoader(Slow(), batch_size=1, num_workers=1, collate_fn=lambda items: items[0]))
    next(iterator)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGTERM)  # by this process, the parent
    worker.join(5)
    assert worker.exitcode == 0

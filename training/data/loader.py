"""A data loader whose worker processes outlive the signals that end a run, so that the run can save first."""

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, Dataset

from training.data.sample import Sample

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SteadyLoader(DataLoader[Sample]):
    """`DataLoader`; its workers end with their parent alone, not by a signal that their whole process group gets.

    SLURM, timeout, docker, systemd and Ctrl-C signal all processes of a run at once.
    """

    def __init__(self, dataset: Dataset[Sample], **settings: Any) -> None:
        super().__init__(dataset, worker_init_fn=_end_with_parent, **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # torch's private iterator
        """Start the workers with the signals blocked, so that there is no moment without protection."""
        if not self.num_workers or threading.current_thread() is not threading.main_thread():
            return super().__iter__()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return super().__iter__()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int) -> None:
    """Block the signals in this worker, but for a SIGTERM of its parent, with which torch ends a worker that hangs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parent = os.getppid()

    def wait() -> None:
        while True:
            received = signal.sigwaitinfo(_SIGNALS)
            if (received.si_signo, received.si_pid) == (signal.SIGTERM, parent):
                break
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()

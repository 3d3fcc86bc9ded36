"""How a run ends early: at one exact step on all its processes, whichever of them is asked to end."""

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed import ReduceOp, all_reduce

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopTogether(pl.Callback):
    """Ends a run after a step that all processes agree on, once one of them got SIGTERM or SIGINT (Ctrl-C).

    While the run trains, its handlers stand in the place of Lightning's, which let each process end by itself. Of
    several processes the request is shared at the end of a step and read in the middle of the next, when a GPU has
    finished the step before: the run ends with that next step. A second Ctrl-C interrupts at once, without saving.

    Stands before the callback that saves.
    """

    def __init__(self) -> None:
        self.agreed = False  # the step that ends now is the last one
        self._asked = False
        self._shared: Tensor | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        if self._shared is not None and self._shared.item():
            self.agreed = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if not is_step_done(trainer, rest[-1]):
            return
        if trainer.world_size == 1:
            self.agreed = self._asked
        elif not self.agreed:
            self._shared = torch.tensor(float(self._asked), device=pl_module.device)
            all_reduce(self._shared, ReduceOp.MAX)
        if self.agreed:
            trainer.should_stop = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


def is_step_done(trainer: pl.Trainer, batch_index: int) -> bool:
    """Whether a batch was the last of an optimiser step, see `optim.accumulate`."""
    return (batch_index + 1) % trainer.accumulate_grad_batches == 0

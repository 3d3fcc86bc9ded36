"""What a training run leaves on disk and shows while it runs."""

import fcntl
import json
import logging
import math
import sys
from pathlib import Path
from typing import IO, Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.types import _PATH
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor
from tqdm import tqdm

from bevdistill_ros.core.files import atomic_file, write_whole
from training.run.config import TrainConfig
from training.run.stopping import StopTogether, is_step_done
from training.weights.checkpoint import CONFIG_KEY, config_text

_LOG = logging.getLogger(__name__)

LAST = "last.ckpt"
LOSSES = "losses.jsonl"
CONFIG = "config.json"


class LossLog(pl.Callback):
    """Writes the configuration, and a JSON line of unweighted losses every so many steps, from the first on.

    Some lines also hold the weighted losses and their gradient norms, see `training.run.balance`.

    A resumed run drops the lines of the steps that it does again. While the run lasts, its file of losses is locked:
    a second process that would train in the same folder ends with its first step, and changes nothing there.

    Args:
        folder: Of the run; made when the first step is done, so that a run that can't begin leaves nothing.
        config: The resolved configuration.
        every: Steps between two lines.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, every: int) -> None:
        self._folder, self._config, self._every = folder, config, every
        self._kept: int | None = None  # bytes of the file to go on after; None when that is done
        self._file: IO[str] | None = None
        self._rate = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        path = self._folder / LOSSES
        lines = path.read_bytes().splitlines(keepends=True) if trainer.global_step and path.exists() else []
        self._kept = sum(len(line) for line in lines if _step_of(line) <= trainer.global_step)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._rate = trainer.optimizers[0].param_groups[-1]["lr"]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if not trainer.is_global_zero or not is_step_done(trainer, rest[-1]):
            return
        if self._kept is not None:
            self._begin(self._kept)
            self._kept = None
        step = trainer.global_step
        balance: dict[str, float] = getattr(pl_module, "balance", {})
        if step == 1 or step % self._every == 0 or step == trainer.max_steps or balance:
            # Not of the trainer's metrics, which remember terms of steps before.
            values = {name: float(value) for name, value in getattr(pl_module, "losses_of_step", {}).items()}
            values |= balance
            assert self._file is not None
            self._file.write(json.dumps({"step": step, "learning_rate": self._rate, **values}) + "\n")
            self._file.flush()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _begin(self, kept: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = _locked(self._folder / LOSSES)
        self._file.truncate(kept)
        write_whole(self._folder / CONFIG, json.dumps(json.loads(config_text(self._config)), indent=2) + "\n")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Checkpoints(pl.Callback):
    """Saves the run every so many steps, at its end, and when it is asked to end; stands last among the callbacks.

    Args:
        path: The checkpoint; the one before is replaced when the new one is complete.
        config: The resolved configuration, which goes into the checkpoint.
        every: Steps between two saves.
        stop: Knows when the run is asked to end.
    """

    def __init__(self, path: Path, config: TrainConfig, *, every: int, stop: StopTogether) -> None:
        self._path, self._text, self._every, self._stop = path, config_text(config), every, stop

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self._text

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        step = trainer.global_step
        is_due = step % self._every == 0 or step == trainer.max_steps or self._stop.agreed
        if is_due and is_step_done(trainer, rest[-1]):
            trainer.save_checkpoint(self._path)


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint in its own folder, where it appears when it is complete."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        # A stream of Python's reports what is wrong with the disk; torch's own forgets it.
        with atomic_file(path) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


class ExponentialAverage(pl.Callback):
    """Exponential moving average of the weights, which stand in for the model's in checkpoints and at the end.

    It is kept where the model is, and holds what the checkpoint holds, without a frozen teacher. Its memory grows with
    the run, up to that of `decay`: with a fixed one, the random weights of the start weigh on all short runs.

    Args:
        decay: Share of the average that a step keeps.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._count = 0  # steps that are averaged
        self._mean: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        state = self._mean or pl_module.state_dict()
        self._mean = {name: value.detach().to(pl_module.device, copy=True) for name, value in state.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if not is_step_done(trainer, rest[-1]):
            return
        kept = min(self._decay, (1 + self._count) / (10 + self._count)) if self._count else 0.0
        current = pl_module.state_dict()
        learned = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self._mean[name] for name in learned], [current[name] for name in learned], 1.0 - kept)
        for name in current.keys() - set(learned):
            self._mean[name].copy_(current[name])
        self._count += 1

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["current_model_state"] = checkpoint["state_dict"]
        checkpoint["state_dict"] = dict(self._mean)
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self._count)}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._mean = checkpoint["state_dict"]
        self._count = int(checkpoint["averaging_state"]["n_averaged"])
        pl_module.load_state_dict(checkpoint["current_model_state"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.load_state_dict(self._mean)


class StepBar(pl.Callback):
    """A bar of the steps, with the total loss."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar = tqdm(
            desc="train",
            unit="step",
            total=trainer.max_steps,
            initial=trainer.global_step,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *rest: Any) -> None:
        if not is_step_done(trainer, rest[-1]):
            return
        # The loss is read only when the bar is drawn, as that waits for the GPU.
        if self._bar.update() or trainer.global_step == trainer.max_steps:
            self._bar.set_postfix_str(f"loss {float(trainer.callback_metrics['total']):.3f}")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()


def _locked(path: Path) -> IO[str]:
    """The file, to append to; no other process gets it until it is closed, or this process has ended."""
    file = path.open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise OSError(f"another process is training in {path.parent}; wait for it, or end it") from error
    except OSError as error:  # some network file systems have no locks
        _LOG.info("%s can't be locked (%s): take care that no other process trains there", path, error.strerror)
    return file


def _step_of(line: bytes) -> float:
    """Step of a line; infinite for one that was cut off."""
    if not line.endswith(b"\n"):
        return math.inf
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf

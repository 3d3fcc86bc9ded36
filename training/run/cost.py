"""What a run costs: time and memory."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from training.weights.checkpoint import read_checkpoint


class Cost(pl.Callback):
    """Counts what a run costs, through all its resumptions; kept in the checkpoint, see `cost_of`.

    The memory is the largest that was allocated on the GPU, or on a CPU the largest that the process ever held.
    """

    state_key = "cost"

    def __init__(self) -> None:
        self._seconds_before, self._peak_before = 0.0, 0
        self._started = time.monotonic()
        self._device = torch.device("cpu")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.monotonic()
        self._device = pl_module.device
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def state_dict(self) -> dict[str, Any]:
        is_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if is_gpu else peak_resident()
        seconds = self._seconds_before + time.monotonic() - self._started
        return {"train_seconds": seconds, "peak_memory_bytes": max(peak, self._peak_before)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds_before, self._peak_before = state_dict["train_seconds"], state_dict["peak_memory_bytes"]


def cost_of(checkpoint: Path) -> dict[str, float]:
    """`train_seconds` and `peak_memory_bytes` of the run of a checkpoint, so far.

    Raises:
        ValueError: There is no such checkpoint, or it does not know.
    """
    callbacks = read_checkpoint(checkpoint).get("callbacks", {})
    if Cost.state_key not in callbacks:
        raise ValueError(f"{checkpoint} does not say what its training cost; retrain it")
    return dict(callbacks[Cost.state_key])


MEBIBYTE = 2**20


@dataclass(kw_only=True)
class Peak:
    """The most memory that was in use at once [bytes]; filled in when the work is done."""

    above: int = 0  # more than before the work
    total: int = 0  # of the whole process on a CPU, of all tensors on a GPU


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measure the work of a block: resident memory of the process on a CPU (Linux only), tensors on a GPU."""
    peak = Peak()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.total = torch.cuda.max_memory_allocated(device)
    else:
        _give_back()
        before = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        yield peak
        peak.total = _resident("VmHWM")
    peak.above = peak.total - before


@contextlib.contextmanager
def kept_by_autograd() -> Iterator[dict[int, int]]:
    """Bytes of each storage that a block keeps for the backward pass, by its address; sum them after the block."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def peak_resident() -> int:
    """The most memory that this process ever held [bytes] (Linux only).

    Not `resource.getrusage`: its peak starts, even in another program, with what the parent held.
    """
    return _resident("VmHWM")


def _give_back() -> None:
    """Return garbage, and memory that the allocator holds for later: both would hide what a block takes."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(field: str) -> int:
    """A field of the process's status [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    value = next(line for line in lines if line.startswith(field))
    return 1024 * int(value.split()[1])

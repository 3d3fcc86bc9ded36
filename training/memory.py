"""How much memory a piece of work takes."""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
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

    Not `resource.getrusage`: what it tells begins, even for another program, with what the parent held.
    """
    return _resident("VmHWM")


def _give_back() -> None:
    """Return memory that the allocator holds for later, which would hide what a block takes."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(field: str) -> int:
    """A field of the process's status [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    value = next(line for line in lines if line.startswith(field))
    return 1024 * int(value.split()[1])

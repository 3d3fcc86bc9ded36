"""Where half precision and TF32 would round too much."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A block that autocast leaves alone, also on a device that knows no autocast, such as meta."""
    is_known = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if is_known else nullcontext()


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Compute products in the precision of their factors, whatever autocast and the TF32 setting of the process say."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with without_autocast(device_type):
            yield
    finally:
        torch.set_float32_matmul_precision(before)

"""Activation checkpointing (arXiv 1604.06174): a block's inner activations are not kept but computed again."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *inputs: object) -> Tensor:
    """Output of a block whose activations are computed again in the backward pass; numerically the same.

    Without gradients this is a plain call.
    """
    if not torch.is_grad_enabled():
        plain: Tensor = block(*inputs)
        return plain
    output: Tensor = checkpoint(
        block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), statistics_kept(block))
    )
    return output


@contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms leave their running statistics alone, or a second forward pass would count the batch twice."""
    trained = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    before = [(module, module.momentum, module.num_batches_tracked) for module in trained]
    for module in trained:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, momentum, count in before:
            module.momentum, module.num_batches_tracked = momentum, count

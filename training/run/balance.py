"""How hard each loss pulls: what a user needs to set weights for a teacher and a student of their own."""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

DOMINANT = 10.0  # times the detection loss: a term this large leaves detection little say


def gradient_norms(weighted: Mapping[str, Tensor], shared: Tensor) -> dict[str, float]:
    """Length of each term's gradient at a map through which all terms learn.

    Args:
        weighted: Scalars, times their weights.
        shared: The map, of any shape.

    Returns:
        The norm by name; 0 for a term that does not depend on the map.
    """
    norms = {}
    for name, value in weighted.items():
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, shared, retain_graph=True, allow_unused=True)
        norms[name] = 0.0 if gradient is None else float(gradient.norm())
    return norms


def dominant_terms(weighted: Mapping[str, Tensor], detection: Collection[str]) -> dict[str, float]:
    """Terms of distillation that are over `DOMINANT` times the detection loss: how many times it, by name."""
    base = sum(float(weighted[name].detach()) for name in detection if name in weighted)
    ratios = {
        name: float(value.detach()) / max(base, 1e-12) for name, value in weighted.items() if name not in detection
    }
    return {name: ratio for name, ratio in ratios.items() if ratio > DOMINANT}

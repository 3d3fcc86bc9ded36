"""How hard each loss pulls at the BEV map, and weights of distillation terms that follow from it.

Each balanced term is scaled so that the norm of its gradient at the student's BEV map is a set share of that of
detection. Gradients are compared there since every term passes through that map, and one backward pass through the
decoder or an adapter is cheap. Unlike GradNorm (arXiv 1711.02257) nothing is trained and no relative training rate is
needed, as the aim is no balance between equal tasks: detection is the task, and distillation an aid to it. Unlike
uncertainty weighting (arXiv 1705.07115), which is here to compare with, the weight does not depend on the scale of a
term, which here is that of the teacher's features.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

DOMINANT = 10.0  # times the detection loss: a larger term leaves detection little influence
MOMENTUM = 0.9  # of the smoothed gradient norms
_TINY = 1e-12


class GradientBalance(nn.Module):
    """Factors of distillation terms by which their gradients at the BEV map are a share of detection's.

    The norms are smoothed over measurements on a logarithmic scale. They are buffers, so that a checkpoint holds them
    and a resumed run repeats them.

    Args:
        shares: Norm of each term to balance, relative to detection's.
        every: Steps between two measurements; the first steps are measured more often.
    """

    norms: Tensor  # (1 + terms,) smoothed logarithms of norms, detection first
    count: Tensor  # measurements of each
    shares: Tensor  # (terms,) norm relative to detection's

    def __init__(self, shares: Mapping[str, float], *, every: int) -> None:
        super().__init__()
        self.terms = tuple(shares)
        self._every = every
        self.register_buffer("shares", torch.tensor(list(shares.values())), persistent=False)
        self.register_buffer("norms", torch.zeros(1 + len(self.terms)))
        self.register_buffer("count", torch.zeros(1 + len(self.terms)))

    def is_due(self, step: int) -> bool:
        """Whether to measure at a step, which counts from 1: 1, 2, 4, 8, ... and then every so many."""
        return bool(self.terms) and (step % self._every == 0 or (step < self._every and step & (step - 1) == 0))

    @torch.no_grad()
    def update(self, detection: float, terms: Mapping[str, float]) -> None:
        """Take in a measurement; a term that has no gradient this time keeps its factor.

        Args:
            detection: Gradient norm of the weighted detection losses.
            terms: Gradient norm of each balanced term without a weight, by name.
        """
        measured = self.norms.new_tensor([detection, *(terms[name] for name in self.terms)])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(measured)
            measured /= torch.distributed.get_world_size()
        found = measured > _TINY
        self.count += found
        # The mean of the first measurements, then exponential.
        kept = (1 - 1 / self.count.clamp(min=1)).clamp(max=MOMENTUM)
        smoothed = kept * self.norms + (1 - kept) * measured.clamp(min=_TINY).log()
        self.norms.copy_(torch.where(found, smoothed, self.norms))

    def factors(self) -> dict[str, Tensor]:
        """Factor (scalar, float32) of each balanced term; 0 for one that was never measured.

        Detection that was never measured, as where no frame is labelled, counts as a gradient of norm 1.
        """
        values = torch.where(self.count[1:] > 0, self.shares * (self.norms[0] - self.norms[1:]).exp(), 0.0)
        return dict(zip(self.terms, values.unbind(), strict=True))

    def penalty(self) -> Tensor:
        """Nothing to add to the total."""
        return self.norms.new_zeros(())


class UncertaintyBalance(nn.Module):
    """Factors of distillation terms that are learned, as in uncertainty weighting: a term L counts exp(-s) L + s.

    Deviation: the detection losses keep their weights.

    Args:
        terms: Names of the terms to balance.
    """

    def __init__(self, terms: Sequence[str]) -> None:
        super().__init__()
        self.terms = tuple(terms)
        self.log_variance = nn.Parameter(torch.zeros(len(self.terms)))

    def is_due(self, step: int) -> bool:
        """Nothing is measured."""
        return False

    def update(self, detection: float, terms: Mapping[str, float]) -> None:
        """Nothing is taken in."""

    def factors(self) -> dict[str, Tensor]:
        """Factor (scalar, float32) of each balanced term."""
        return dict(zip(self.terms, (-self.log_variance).exp().unbind(), strict=True))

    def penalty(self) -> Tensor:
        """What keeps the factors from vanishing, a scalar to add to the total."""
        return self.log_variance.sum()


def gradient_norms(weighted: Mapping[str, Tensor], shared: Tensor) -> dict[str, float]:
    """Length of each term's gradient at a map through which all terms learn.

    Args:
        weighted: Scalars, times their weights.
        shared: The map, of any shape.

    Returns:
        The norm by name; 0 for a term that does not depend on the map.
    """
    norms = []
    for value in weighted.values():
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, shared, retain_graph=True, allow_unused=True)
        norms.append(shared.new_zeros(()) if gradient is None else gradient.norm())
    return dict(zip(weighted, torch.stack(norms).tolist(), strict=True)) if norms else {}


def dominant_terms(weighted: Mapping[str, Tensor], detection: Collection[str]) -> dict[str, float]:
    """Terms of distillation that exceed `DOMINANT` times the detection loss: how many times it, by name."""
    base = sum(float(weighted[name].detach()) for name in detection if name in weighted)
    ratios = {
        name: float(value.detach()) / max(base, _TINY) for name, value in weighted.items() if name not in detection
    }
    return {name: ratio for name, ratio in ratios.items() if ratio > DOMINANT}

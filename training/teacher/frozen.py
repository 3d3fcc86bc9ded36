"""A teacher that cannot move: no gradients, no dropout, no batch statistics."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.teacher.output import TeacherOutput


class FrozenTeacher(nn.Module):
    """Wraps a LiDAR detector for good: in eval mode, without gradients.

    Args:
        module: Maps clouds B x (P_b, 5) to a `TeacherOutput`; it is frozen in place.
        channels: Channels of its BEV maps.
    """

    def __init__(self, module: nn.Module, *, channels: int) -> None:
        super().__init__()
        self.module = module
        self.channels = channels
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for; a parent's `train()` passes by here."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, points: Sequence[Tensor]) -> TeacherOutput:
        """Run the detector on clouds B x (P_b, 5) in the ego frame."""
        output: TeacherOutput = self.module(points)
        return output

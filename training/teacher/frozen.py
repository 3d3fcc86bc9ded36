"""A teacher that cannot move: no gradients, no dropout, no batch statistics."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from training.data.sample import Batch
from training.teacher.output import TeacherOutput


class FrozenTeacher(nn.Module):
    """Wraps a LiDAR detector for good: in eval mode, without gradients.

    Args:
        module: Maps clouds B x (P_b, 5) to a `TeacherOutput`; it is frozen in place.
        channels: Channels of its BEV maps.
        needs_mounting: Whether the module also takes where the LiDAR is mounted, `ego_from_lidar`.
    """

    def __init__(self, module: nn.Module, *, channels: int, needs_mounting: bool = False) -> None:
        super().__init__()
        self.module = module
        self.channels, self.needs_mounting = channels, needs_mounting
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for; a parent's `train()` passes by here."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, points: Sequence[Tensor], ego_from_lidar: Tensor | None = None) -> TeacherOutput:
        """Run the detector.

        Args:
            points: B x (P_b, 5) float32 [x y z intensity lag] in the ego frame: m, 0...1, s.
            ego_from_lidar: (B, 4, 4) float64 [m], where the LiDAR is mounted; only some detectors need it.
        """
        output: TeacherOutput = self.module(points, ego_from_lidar) if self.needs_mounting else self.module(points)
        return output

    def of(self, batch: Batch) -> TeacherOutput:
        """Run the detector on the LiDAR of a batch."""
        output: TeacherOutput = self(batch.points, batch.ego_from_lidar)
        return output

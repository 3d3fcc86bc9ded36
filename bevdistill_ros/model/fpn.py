"""Feature pyramid network (arXiv 1612.03144).

Deviation, unless `norm` is off: each level ends in a group norm, as Deformable DETR's input projections do, so that the
attention that reads the levels meets values of unit size whatever the backbone's scale; and, unlike batch norm, it
never mixes the images of a batch.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Maps of one width at several strides, each with what the coarser ones know.

    Args:
        channels_in: Channels of the backbone's maps, finest first.
        channels: Channels of every level.
        num_levels: Levels; those beyond the backbone's maps are made by convolutions of stride 2.
        norm: Whether each level ends in a group norm.
    """

    def __init__(self, *, channels_in: Sequence[int], channels: int, num_levels: int, norm: bool = True) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in channels_in)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in channels_in)
        extra = num_levels - len(channels_in)
        self.extras = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra))
        self.norms = nn.ModuleList(
            nn.GroupNorm(math.gcd(32, channels), channels) if norm else nn.Identity() for _ in range(num_levels)
        )
        for layer in (*self.laterals, *self.outputs, *self.extras):
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Levels (B, C, h, w), finest first, of the backbone's maps, finest first."""
        merged = [lateral(entry) for lateral, entry in zip(self.laterals, maps, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            coarse = F.interpolate(merged[fine + 1], size=merged[fine].shape[-2:], mode="nearest")
            merged[fine] = merged[fine] + coarse
        levels = [output(entry) for output, entry in zip(self.outputs, merged, strict=True)]
        for extra in self.extras:
            levels.append(extra(levels[-1]))
        return [norm(level) for norm, level in zip(self.norms, levels, strict=True)]

"""Spatial cross-attention of BEVFormer (arXiv 2203.17270), section 3.3: BEV pillars look at the images that see them.

Deviations: of a pillar's reference points only those that a camera sees are sampled there, and the attention weights
are normalised over these (BEVFormer samples all of them as soon as one is seen, though the others may lie behind the
camera); the query's positional part takes part; and there is no embedding of the camera's index, so that the order of
the cameras is of no consequence.

Shape legend: B batch, N cameras, Q pillars, V visible pillars of a camera (padded), S cameras that see a pillar
(padded), Z heights, G heads, L levels, P points per height, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.model.deformable import deformable_sample, level_scale, ring_offsets
from bevdistill_ros.model.geometry import VisiblePillars
from bevdistill_ros.model.layers import project_last, project_map, rows_of


class SpatialCrossAttention(nn.Module):
    """Pillars gather features around their reference points from the cameras that see them, and average over these.

    Args:
        embed_dim: Channels of BEV and images.
        num_heads: Attention heads.
        num_levels: Image feature levels.
        num_heights: Reference points of a pillar.
        points_per_height: Samples per head, level and reference point.
    """

    def __init__(
        self, *, embed_dim: int, num_heads: int, num_levels: int, num_heights: int, points_per_height: int
    ) -> None:
        super().__init__()
        self.shape = (num_heads, num_levels, num_heights, points_per_height)
        samples = num_heads * num_levels * num_heights * points_per_height
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_projection = nn.Linear(embed_dim, embed_dim)
        self.output_projection = nn.Linear(embed_dim, embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        """The first sample of a height starts on the reference point itself, for a sharp BEV from the first step."""
        heads, levels, heights, points = self.shape
        ring = ring_offsets(heads, levels, points)
        ring = (ring - ring[:, :, :1])[:, :, None].expand(heads, levels, heights, points, 2)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.flatten())
        for layer in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, visible: VisiblePillars, levels: Sequence[Tensor]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), with its positional part added.
            visible: What the cameras see.
            levels: L maps (B * N, C, h, w).

        Returns:
            (B, Q, C), without the residual.
        """
        cameras = visible.index.shape[1:]
        looking = rows_of(query, visible.index.flatten(1)).unflatten(1, cameras).flatten(0, 1)
        found = self._sample(looking, visible, levels).unflatten(0, (-1, cameras[0])).flatten(1, 2)
        # Each pillar reads what its cameras found; adding to the pillars instead would need an atomic scatter.
        gathered = rows_of(found, visible.slots.flatten(1)).unflatten(1, visible.slots.shape[1:])
        mean = (gathered * visible.shares.unsqueeze(-1)).sum(dim=2)
        output: Tensor = self.output_projection(mean)
        return output

    def _sample(self, looking: Tensor, visible: VisiblePillars, levels: Sequence[Tensor]) -> Tensor:
        """What each camera shows to its pillars (B * N, V, C): (B * N, V, C)."""
        _, num_levels, heights, points = self.shape
        values = [project_map(self.value_projection, level) for level in levels]
        offsets = project_last(self.sampling_offsets, looking).float().unflatten(1, (*self.shape, 2))
        scale = level_scale(levels, offsets).reshape(num_levels, 1, 1, 2, 1)
        places = visible.places.flatten(0, 1).permute(0, 2, 3, 1)[:, None, None, :, None]
        locations = (places + offsets / scale).flatten(3, 4)
        hidden = ~visible.seen.flatten(0, 1).transpose(1, 2)[:, None, None, :, None]
        scores = project_last(self.attention_weights, looking).float().unflatten(1, self.shape)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        weights = scores.flatten(2, 4).softmax(dim=2).unflatten(2, (num_levels, heights * points))
        return deformable_sample(values, locations, weights)

"""Self-attention of the BEV with its own past, BEVFormer (arXiv 2203.17270), section 3.4.

The previous BEV is carried into the current ego frame by the poses themselves, in metres about the grid's own origin,
each batch item by its own motion.

Deviations: the current map is the layer's own input, not the first layer's queries, so that deeper layers see what was
found; and each of the two maps has a value projection of its own, so that past and present can be distinguished.

Shape legend: B batch, Q cells, C channels, G heads, P points; a map is (B, C, rows, cols).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.model.deformable import deformable_sample, level_scale, ring_offsets
from bevdistill_ros.model.geometry import BevWarp
from bevdistill_ros.model.layers import maps_of, project_last, project_map, rows_of, tokens_of

NUM_MAPS = 2  # previous and current


def warp_bev(bev: Tensor, warp: BevWarp) -> Tensor:
    """Resample a BEV map as it looks from another ego frame.

    Args:
        bev: (B, C, rows, cols) in the previous ego frame.
        warp: Where its cells lie in the current one.

    Returns:
        (B, C, rows, cols) in the current ego frame, in the map's dtype; zero where the old map does not reach.
    """
    neighbours = rows_of(tokens_of(bev), warp.index.flatten(1)).unflatten(1, warp.index.shape[1:])
    warped = (neighbours * warp.weight.unsqueeze(-1)).sum(dim=1)
    return maps_of(warped, *bev.shape[-2:]).to(bev.dtype)


class TemporalSelfAttention(nn.Module):
    """Each cell looks at a few places of the previous and of the current map, and takes the mean of both.

    Where places lie and how they count follows from the cell's content in both maps.

    Args:
        embed_dim: Channels.
        num_heads: Attention heads.
        num_points: Samples per head and map.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, num_points: int) -> None:
        super().__init__()
        self.shape = (num_heads, NUM_MAPS, num_points)
        samples = num_heads * NUM_MAPS * num_points
        self.sampling_offsets = nn.Linear(2 * embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(2 * embed_dim, samples)
        self.value_projection = nn.Linear(embed_dim, embed_dim)
        self.past_projection = nn.Linear(embed_dim, embed_dim)
        self.output_projection = nn.Linear(embed_dim, embed_dim)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring_offsets(*self.shape).flatten())
        for layer in (self.value_projection, self.past_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), the current map's cells with their positional part added.
            reference: Normalised cell centres, (B, Q, 2), or (B, Q, 2, 2) where those of the two maps differ; not
                changed.
            maps: The previous map (B, C, rows, cols), already in the current ego frame, and the current one; where
                there is no previous map, the current one twice.

        Returns:
            (B, Q, C), without the residual.
        """
        both = torch.cat([tokens_of(maps[0]).to(query.dtype), query], dim=-1)
        projections = self.past_projection, self.value_projection
        values = [project_map(*pair) for pair in zip(projections, maps, strict=True)]
        offsets = project_last(self.sampling_offsets, both).float().unflatten(1, (*self.shape, 2))
        by_map = (reference.unsqueeze(2) if reference.dim() == 3 else reference).permute(0, 2, 3, 1)
        locations = by_map[:, None, :, None] + offsets / level_scale(values, offsets)[:, None, :, None]
        scores = project_last(self.attention_weights, both).float().unflatten(1, self.shape)
        weights = scores.softmax(dim=3) / NUM_MAPS
        sampled = deformable_sample(values, locations, weights)
        output: Tensor = self.output_projection(sampled)
        return output

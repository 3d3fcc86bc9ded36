"""The BEV encoder of BEVFormer (arXiv 2203.17270): queries on a grid around the ego collect what the cameras and the
past show.

Deviation: rows and columns of the learned positional embedding start as sines instead of at random, so that
neighbours resemble each other from the first step.

Shape legend: B batch, N cameras, Q = rows * cols cells, C channels.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention
from bevdistill_ros.model.geometry import BevWarp, Geometry, VisiblePillars
from bevdistill_ros.model.layers import FeedForward, maps_of
from bevdistill_ros.model.recompute import recomputed
from bevdistill_ros.model.spatial_attention import SpatialCrossAttention
from bevdistill_ros.model.temporal_attention import TemporalSelfAttention, warp_bev


class EncoderLayer(nn.Module):
    """Self-attention in BEV, cross-attention to images, feed-forward; each with residual and layer norm after it."""

    def __init__(
        self,
        self_attention: TemporalSelfAttention | MultiScaleDeformableAttention,
        cross_attention: SpatialCrossAttention,
        feed_forward: FeedForward,
        dropout: float,
    ) -> None:
        super().__init__()
        embed_dim = cross_attention.output_projection.out_features
        self.self_attention = self_attention
        self.cross_attention = cross_attention
        self.feed_forward = feed_forward
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        cells: Tensor,
        position: Tensor,
        reference: Tensor,
        maps: Sequence[Tensor],
        visible: VisiblePillars,
        levels: Sequence[Tensor],
    ) -> Tensor:
        """Update cells (B, Q, C).

        Args:
            cells: (B, Q, C).
            position: (Q, C), the positional part.
            reference: (B, Q, 2), normalised cell centres.
            maps: What self-attention reads, (B, C, rows, cols): the current map, after the previous one if there is a
                past.
            visible: What the cameras see.
            levels: Image features (B * N, C, h, w).
        """
        cells = self.norms[0](cells + self.dropout(self.self_attention(cells + position, reference, maps)))
        cells = self.norms[1](cells + self.dropout(self.cross_attention(cells + position, visible, levels)))
        output: Tensor = self.norms[2](cells + self.dropout(self.feed_forward(cells)))
        return output


class BevEncoder(nn.Module):
    """Images to BEV.

    Args:
        grid: The BEV grid.
        embed_dim: Channels of image features and BEV.
        num_heads: Attention heads.
        num_layers: Encoder layers.
        num_levels: Image feature levels.
        num_heights: Reference points of a pillar.
        points_per_height: Image samples per head, level and reference point.
        bev_points: BEV samples per head of the self-attention.
        feedforward_dim: Hidden channels of the feed-forward blocks.
        dropout: Dropout probability.
        temporal: Whether the previous BEV takes part.
    """

    def __init__(
        self,
        *,
        grid: BevGrid,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        num_levels: int,
        num_heights: int,
        points_per_height: int,
        bev_points: int,
        feedforward_dim: int,
        dropout: float,
        temporal: bool,
    ) -> None:
        super().__init__()
        self.grid, self.temporal = grid, temporal
        self.recompute = False  # whether training saves memory by computing activations twice
        self.queries = nn.Parameter(torch.randn(grid.rows * grid.cols, embed_dim) * 0.02)
        self.row_position = nn.Parameter(line_embedding(grid.rows, embed_dim // 2))
        self.col_position = nn.Parameter(line_embedding(grid.cols, embed_dim // 2))
        self.level_embedding = nn.Parameter(torch.randn(num_levels, embed_dim) * 0.02)

        def self_attention() -> TemporalSelfAttention | MultiScaleDeformableAttention:
            if temporal:
                return TemporalSelfAttention(embed_dim=embed_dim, num_heads=num_heads, num_points=bev_points)
            return MultiScaleDeformableAttention(
                embed_dim=embed_dim, num_heads=num_heads, num_levels=1, num_points=bev_points
            )

        self.layers = nn.ModuleList(
            EncoderLayer(
                self_attention(),
                SpatialCrossAttention(
                    embed_dim=embed_dim,
                    num_heads=num_heads,
                    num_levels=num_levels,
                    num_heights=num_heights,
                    points_per_height=points_per_height,
                ),
                FeedForward(embed_dim, feedforward_dim, dropout),
                dropout,
            )
            for _ in range(num_layers)
        )

    def forward(self, levels: Sequence[Tensor], geometry: Geometry, previous_bev: Tensor | None) -> Tensor:
        """Encode.

        Args:
            levels: Image features (B * N, C, h, w), finest first.
            geometry: What the cameras see, and where the previous BEV lies.
            previous_bev: The previous BEV (B, C, rows, cols); only for a temporal encoder.

        Returns:
            BEV (B, C, rows, cols).

        Raises:
            ValueError: `previous_bev` does not fit this encoder.
        """
        batch, rows, cols = len(geometry.visible.index), self.grid.rows, self.grid.cols
        past = self._past(previous_bev, geometry.warp, batch)
        levels = [level + bias[:, None, None] for level, bias in zip(levels, self.level_embedding, strict=True)]
        centres = self.grid.cell_centres(self.queries.device).flatten(0, 1)
        reference = self.grid.normalize(centres).expand(batch, -1, -1)
        position = self._position()
        cells = self.queries.expand(batch, -1, -1)
        for layer in self.layers:
            current = maps_of(cells, rows, cols)
            inputs = cells, position, reference, [*past(current), current], geometry.visible, levels
            cells = recomputed(layer, *inputs) if self.recompute else layer(*inputs)
        return maps_of(cells, rows, cols)

    def _past(self, bev: Tensor | None, warp: BevWarp | None, batch: int) -> Callable[[Tensor], list[Tensor]]:
        """What self-attention reads besides a layer's current map, as a function of that map."""
        if bev is None or warp is None:
            return lambda current: [current] * self.temporal
        expected = (batch, self.queries.shape[-1], self.grid.rows, self.grid.cols)
        if not self.temporal or tuple(bev.shape) != expected:
            wanted = f"of shape {expected}" if self.temporal else "None, as the student is not temporal"
            raise ValueError(f"the previous BEV must be {wanted}, but is of shape {tuple(bev.shape)}")
        warped = warp_bev(bev, warp)
        present = warp.present[:, None, None, None]
        return lambda current: [torch.where(present, warped.to(current.dtype), current)]

    def _position(self) -> Tensor:
        """Positional part (Q, C) of the cells, row by row."""
        rows, cols = self.grid.rows, self.grid.cols
        across = self.col_position[None, :].expand(rows, -1, -1)
        along = self.row_position[:, None].expand(-1, cols, -1)
        return torch.cat([across, along], dim=-1).flatten(0, 1)


def line_embedding(count: int, channels: int) -> Tensor:
    """Sines and cosines (count, channels) of places on a line, from half a wave over it to half a wave a place."""
    place = (torch.arange(count, dtype=torch.float32) + 0.5) / count
    frequency = math.pi * float(count) ** torch.linspace(0, 1, channels // 2)
    phase = place[:, None] * frequency
    return torch.cat([phase.sin(), phase.cos()], dim=-1)

"""Multi-level deformable encoder on BEV maps: Deformable DETR (arXiv 2010.04159), in Object-DGCNN (arXiv 2110.06923).

Each cell of each level attends to a few learned places around its own centre, on all levels.

Shape legend: B batch, C channels, h w cells of a level, T cells of all levels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.model.deformable import MultiScaleDeformableAttention
from bevdistill_ros.model.layers import NUM_WAVES, FeedForward, maps_of, sine_embedding, tokens_of


class BevEncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward, each with residual and layer norm after it."""

    def __init__(self, attention: MultiScaleDeformableAttention, feed_forward: FeedForward, dropout: float) -> None:
        super().__init__()
        embed_dim = attention.output_projection.out_features
        self.attention = attention
        self.feed_forward = feed_forward
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, levels: Sequence[Tensor], position: Tensor, reference: Tensor) -> list[Tensor]:
        """Update maps (B, C, h, w) with positional part (1, T, C) of cells at reference (1, T, 2)."""
        tokens = torch.cat([tokens_of(level) for level in levels], dim=1)
        placed, reference = tokens + position, reference.expand(len(tokens), -1, -1)
        tokens = self.norms[0](tokens + self.dropout(self.attention(placed, reference, levels)))
        tokens = self.norms[1](tokens + self.dropout(self.feed_forward(tokens)))
        sizes = [level.shape[-2] * level.shape[-1] for level in levels]
        parts = tokens.split(sizes, dim=1)
        return [maps_of(part, *level.shape[-2:]) for part, level in zip(parts, levels, strict=True)]


class BevEncoder(nn.Module):
    """Layers of deformable self-attention over BEV maps that cover one extent.

    Args:
        embed_dim: Channels.
        num_heads: Attention heads.
        num_layers: Layers.
        num_levels: Maps.
        num_points: Samples per head and map.
        feedforward_dim: Hidden channels of the feed-forward blocks.
        dropout: Dropout probability.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        num_levels: int,
        num_points: int,
        feedforward_dim: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.across = nn.Linear(2 * NUM_WAVES, embed_dim)
        self.along = nn.Linear(2 * NUM_WAVES, embed_dim, bias=False)
        self.level = nn.Parameter(torch.randn(num_levels, embed_dim) * 0.02)
        self.layers = nn.ModuleList(
            BevEncoderLayer(
                MultiScaleDeformableAttention(
                    embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
                ),
                FeedForward(embed_dim, feedforward_dim, dropout),
                dropout,
            )
            for _ in range(num_layers)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Map levels (B, C, h, w) to levels of the same shapes."""
        sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
        position = torch.cat([self._position(*size) + own for size, own in zip(sizes, self.level, strict=True)])
        reference = torch.cat([cell_centres(*size, device=levels[0].device) for size in sizes])
        current = list(levels)
        for layer in self.layers:
            current = layer(current, position.unsqueeze(0), reference.unsqueeze(0))
        return current

    def _position(self, rows: int, cols: int) -> Tensor:
        """Positional part (rows * cols, C): a linear map of the sines of x and y, once per row and once per column."""
        device = self.level.device
        across = self.across(sine_embedding(unit_centres(cols, device=device).unsqueeze(-1)))
        along = self.along(sine_embedding(unit_centres(rows, device=device).unsqueeze(-1)))
        return (along.unsqueeze(1) + across).flatten(0, 1)


def unit_centres(count: int, *, device: torch.device) -> Tensor:
    """Centres in [0, 1] of a number of cells side by side: (count,) float32."""
    return (torch.arange(count, device=device, dtype=torch.float32) + 0.5) / count


def cell_centres(rows: int, cols: int, *, device: torch.device) -> Tensor:
    """Centres (x, y) in [0, 1] of all cells, row by row: (rows * cols, 2) float32."""
    y, x = torch.meshgrid(unit_centres(rows, device=device), unit_centres(cols, device=device), indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)

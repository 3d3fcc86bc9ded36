"""Blocks that encoder and decoder share."""

import math

import torch
from torch import Tensor, nn

NUM_WAVES = 16  # sine and cosine pairs of a coordinate's embedding


class FeedForward(nn.Sequential):
    """Two linear layers with a ReLU, applied to each token; without the residual."""

    def __init__(self, embed_dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(embed_dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, embed_dim))


def sine_embedding(points: Tensor) -> Tensor:
    """Sines and cosines of points (..., 3) in [0, 1], of wave lengths from 2 down to 1/32: (..., 6 * NUM_WAVES)."""
    frequencies = math.pi * 64.0 ** torch.linspace(0, 1, NUM_WAVES, device=points.device)
    phase = points.float().unsqueeze(-1) * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1).flatten(-2)


def tokens_of(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as tokens (B, h * w, C), row by row."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: Tensor, rows: int, cols: int) -> Tensor:
    """Tokens (B, rows * cols, C) as maps (B, C, rows, cols)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, cols)


def rows_of(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens (B, M, C) at index (B, K) of each batch item: (B, K, C)."""
    batch, count, channels = tokens.shape
    start = torch.arange(batch, device=index.device)[:, None] * count
    # Whole rows by one index are read several times faster than element by element, as `gather` would.
    return tokens.flatten(0, 1).index_select(0, (index + start).flatten()).reshape(batch, -1, channels)


def project_last(projection: nn.Linear, tokens: Tensor) -> Tensor:
    """Apply a linear layer to tokens (B, K, C), with the tokens last: (B, C', K)."""
    return projection.weight @ tokens.transpose(1, 2) + projection.bias[:, None]


def project_map(projection: nn.Linear, maps: Tensor) -> Tensor:
    """Apply a linear layer to every cell of maps (B, C, h, w)."""
    projected = projection.weight @ maps.flatten(2) + projection.bias[:, None]
    return projected.reshape(*projected.shape[:2], *maps.shape[-2:])

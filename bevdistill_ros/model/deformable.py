"""Multi-scale deformable attention in plain torch, Deformable DETR (arXiv 2010.04159), section 4.1.

Shape legend: B batch, Q queries, C channels, D channels a head, G heads, L levels, P points, h w cells of a level.

Measured on a CPU: `grid_sample` a level, with the heads in its batch, takes a third of the time of gathering the four
neighbours by index; and working through that batch in pieces that stay in the cache halves the time again. The many
small steps that lead to places and weights go along the queries, which lie last in memory, as the other axes are too
short for vector instructions.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from bevdistill_ros.core.grid import constant_like
from bevdistill_ros.model.layers import project_last, project_map

CACHED_ELEMENTS = 2**18  # of the samples that a thread of a CPU handles at once
Sampling = Literal["grid_sample", "gather"]
_sampling: ContextVar[Sampling] = ContextVar("sampling", default="grid_sample")
KEPT_ELEMENTS = 2**26  # more samples of a level than these are not kept for the backward pass but taken again: slower


@contextmanager
def sampled_by(method: Sampling) -> Iterator[None]:
    """Within it, samples are taken by `grid_sample`, or by gathering the four neighbours.

    Both give the same numbers. Gathering is slower on a CPU, but some engines compute GridSample wrongly.
    """
    token = _sampling.set(method)
    try:
        yield
    finally:
        _sampling.reset(token)


def deformable_sample(levels: Sequence[Tensor], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of bilinear samples; outside a map there is zero.

    Args:
        levels: L maps (B, G * D, h, w).
        locations: (B, G, L, P, 2, Q), normalised (x, y) over each map: 0 and 1 are the outer borders of its first and
            last cell.
        weights: (B, G, L, P, Q).

    Returns:
        (B, Q, G * D) in the dtype of the maps.
    """
    batch, heads = locations.shape[:2]
    # A half-precision grid would displace samples by up to half a cell, so sampling is always in float32.
    places = (2 * locations.float() - 1).flatten(0, 1)
    weights = weights.float().flatten(0, 1)
    total = places.new_zeros(())
    for level, place, weight in zip(levels, places.unbind(1), weights.unbind(1), strict=True):
        value = level.float().reshape(batch * heads, -1, *level.shape[-2:])
        grid = place.transpose(-1, -2)  # level by level, as an engine turns two neighbouring axes faster than several
        repeats = torch.is_grad_enabled() and value.shape[1] * weight.numel() > KEPT_ELEMENTS
        sampled = _SampledSum.apply if repeats else _sampled_sum
        total = total + torch.cat([sampled(*piece) for piece in _pieces(value, grid, weight)])
    return total.reshape(batch, -1, locations.shape[-1]).transpose(1, 2).to(levels[0].dtype)


def sample_map(value: Tensor, grid: Tensor) -> Tensor:
    """Maps (M, D, h, w) at places (M, P, Q, 2) in [-1, 1], bilinearly: (M, D, P, Q); see `sampled_by`."""
    if _sampling.get() == "gather":
        return _gathered(value, grid)
    return F.grid_sample(value, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _gathered(value: Tensor, grid: Tensor) -> Tensor:
    """`sample_map` from the four neighbours of each place, read by whole rows."""
    maps, _, rows, cols = value.shape
    tokens = value.flatten(2).transpose(1, 2).flatten(0, 1)
    start = torch.arange(maps, device=value.device)[:, None, None] * (rows * cols)
    x, y = ((grid[..., axis] + 1) * (size / 2) - 0.5 for axis, size in enumerate((cols, rows)))
    total = None
    for step_x in (0, 1):
        for step_y in (0, 1):
            col, row = x.floor() + step_x, y.floor() + step_y
            inside = (col >= 0) & (col < cols) & (row >= 0) & (row < rows)
            weight = (1 - (x - col).abs()) * (1 - (y - row).abs()) * inside
            cell = start + row.clamp(0, rows - 1).long() * cols + col.clamp(0, cols - 1).long()
            part = tokens.index_select(0, cell.flatten()).reshape(*cell.shape, -1) * weight.unsqueeze(-1)
            total = part if total is None else total + part
    assert total is not None
    return total.permute(0, 3, 1, 2)


def _sampled_sum(value: Tensor, grid: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums (M, D, Q) of maps (M, D, h, w) at places (M, P, Q, 2) in [-1, 1] with weights (M, P, Q)."""
    return (sample_map(value, grid) * weight.unsqueeze(1)).sum(dim=-2)


class _SampledSum(torch.autograd.Function):
    """`_sampled_sum` that samples again in the backward pass instead of keeping the samples, which are the most."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, grid: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(value, grid, weight)
        return _sampled_sum(value, grid, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        value, grid, weight = ctx.saved_tensors
        with torch.enable_grad():
            inputs = value.detach().requires_grad_(), grid.detach().requires_grad_()
            sampled = sample_map(*inputs)
        of_value, of_grid = torch.autograd.grad(sampled, inputs, gradient.unsqueeze(-2) * weight.unsqueeze(1))
        return of_value, of_grid, (sampled.detach() * gradient.unsqueeze(-2)).sum(dim=1)


def _pieces(value: Tensor, grid: Tensor, weight: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batch in pieces: small ones on a CPU, one on an accelerator or in a graph for another engine."""
    count, size = len(value), len(value)
    if value.device.type == "cpu" and not (torch.jit.is_tracing() or torch.compiler.is_compiling()):
        fitting = CACHED_ELEMENTS // max(1, value.shape[1] * weight[0].numel())
        size = max(1, fitting) * torch.get_num_threads()  # torch shares the batch, and nothing else, among its threads
    if size >= count:
        return iter([(value, grid, weight)])
    return zip(value.split(size), grid.split(size), weight.split(size), strict=True)


def ring_offsets(num_heads: int, num_levels: int, num_points: int) -> Tensor:
    """First sampling offsets (G, L, P, 2) in cells: a direction for each head, point p at distance p + 1."""
    angle = torch.arange(num_heads, dtype=torch.float32) * (2 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().max(dim=-1, keepdim=True).values
    distance = torch.arange(1, num_points + 1, dtype=torch.float32)
    ring = direction[:, None, None, :] * distance[None, None, :, None]
    return ring.expand(num_heads, num_levels, num_points, 2).clone()


def level_scale(levels: Sequence[Tensor], like: Tensor) -> Tensor:
    """Width and height in cells of each level: (L, 2)."""
    sizes = [size for level in levels for size in (level.shape[-1], level.shape[-2])]
    return constant_like(like, sizes).reshape(-1, 2)


class MultiScaleDeformableAttention(nn.Module):
    """Attention of queries to a few learned places around their reference point, on maps of several scales.

    At first it averages a ring of places around the reference point, one direction a head.

    Args:
        embed_dim: Channels of queries and maps.
        num_heads: Attention heads; they divide `embed_dim`.
        num_levels: Maps.
        num_points: Places per head and map.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, num_levels: int, num_points: int) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim must be divisible by num_heads ({num_heads}), but is {embed_dim}")
        self.shape = (num_heads, num_levels, num_points)
        samples = math.prod(self.shape)
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_projection = nn.Linear(embed_dim, embed_dim)
        self.output_projection = nn.Linear(embed_dim, embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring_offsets(*self.shape).flatten())
        for layer in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), with its positional part added.
            reference: (B, Q, 2) normalised (x, y) in [0, 1]; it is not changed.
            levels: L maps (B, C, h, w).

        Returns:
            (B, Q, C), without the residual.
        """
        values = [project_map(self.value_projection, level) for level in levels]
        heads, num_levels, points = self.shape
        offsets = project_last(self.sampling_offsets, query).float().unflatten(1, (*self.shape, 2))
        scores = project_last(self.attention_weights, query).float().unflatten(1, (heads, num_levels * points))
        weights = scores.softmax(dim=2).unflatten(2, (num_levels, points))
        places = reference.transpose(1, 2)[:, None, None, None]
        locations = places + offsets / level_scale(levels, offsets)[:, None, :, None]
        sampled = deformable_sample(values, locations, weights)
        output: Tensor = self.output_projection(sampled)
        return output

"""The set decoder that the camera student and the LiDAR teacher share.

Deformable DETR (arXiv 2010.04159) with iterative box refinement, on BEV maps, as in BEVFormer (arXiv 2203.17270) and
Object-DGCNN (arXiv 2110.06923). Deviation: a query's place is a learned reference point, spread evenly over the grid
at first, and its positional embedding is computed from that point again in each layer (as in DAB-DETR, arXiv
2201.12329), which learns faster than a free embedding that has to discover its point. The free embedding is an option.

Shape legend: L layers, B batch, Q queries, C channels, K classes.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bevdistill_ros.core.boxes import CODE_SIZE
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.core.precision import without_autocast
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention
from bevdistill_ros.model.layers import NUM_WAVES, FeedForward, sine_embedding
from bevdistill_ros.model.query_selection import HeatmapSelection, QuerySelection, Selection
from bevdistill_ros.model.records import SetPrediction

PRIOR_PROBABILITY = 0.01  # of a class at a query before training, as in focal loss
CENTRE_CODES = (0, 1, 4)  # x, y and z in a regression code
QueryPosition = Literal["sine", "learned"]


class QueryAttention(nn.Module):
    """Plain multi-head attention among the queries; the default query interaction.

    A query interaction maps content (B, Q, C) and positional part (B, Q, C) to an update (B, Q, C), without the
    residual.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)

    def forward(self, content: Tensor, position: Tensor) -> Tensor:
        """Update (B, Q, C) of every query by all queries."""
        placed = content + position
        update: Tensor = self.attention(placed, placed, content, need_weights=False)[0]
        return update


class DecoderLayer(nn.Module):
    """Query interaction, deformable cross-attention, feed-forward; each with residual and layer norm after it."""

    def __init__(
        self,
        interaction: nn.Module,
        cross_attention: MultiScaleDeformableAttention,
        feed_forward: FeedForward,
        dropout: float,
    ) -> None:
        super().__init__()
        embed_dim = cross_attention.output_projection.out_features
        self.interaction = interaction
        self.cross_attention = cross_attention
        self.feed_forward = feed_forward
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, content: Tensor, position: Tensor, reference: Tensor, levels: Sequence[Tensor]) -> Tensor:
        """Update content (B, Q, C) with positional part (B, Q, C) at reference (B, Q, 2) on maps (B, C, h, w)."""
        content = self.norms[0](content + self.dropout(self.interaction(content, position)))
        content = self.norms[1](content + self.dropout(self.cross_attention(content + position, reference, levels)))
        output: Tensor = self.norms[2](content + self.dropout(self.feed_forward(content)))
        return output


class LearnedQueries(nn.Module):
    """Queries whose content and reference points are parameters, the same for every frame.

    Args:
        embed_dim: Channels.
        num_queries: Queries.
        spread: Whether the first reference points cover the grid evenly instead of at random.
    """

    def __init__(self, embed_dim: int, num_queries: int, spread: bool) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.randn(num_queries, embed_dim) * 0.02)
        unit = spread_points(num_queries) if spread else 0.01 + 0.98 * torch.rand(num_queries, 3)
        self.reference = nn.Parameter(unit.logit())

    def forward(self, bev: Tensor, start_on: Tensor | None = None) -> Selection:
        """The same queries for each item of a map (B, C, h, w), whatever its peaks."""
        batch = len(bev)
        content, reference = self.content.expand(batch, -1, -1), self.reference.expand(batch, -1, -1)
        return Selection(content=content, reference=reference, heatmap=None)


class SinePosition(nn.Sequential):
    """Positional part (B, Q, C) of queries from their reference points (B, Q, 3) in [0, 1]."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__(nn.Linear(3 * 2 * NUM_WAVES, embed_dim), nn.ReLU(), nn.Linear(embed_dim, embed_dim))

    def forward(self, place: Tensor) -> Tensor:
        """Embed the points."""
        embedded: Tensor = super().forward(sine_embedding(place))
        return embedded


class LearnedPosition(nn.Module):
    """Positional part (B, Q, C) of queries as parameters, the same in every layer wherever the references are."""

    def __init__(self, embed_dim: int, num_queries: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, embed_dim))

    def forward(self, place: Tensor) -> Tensor:
        """The same for each item of reference points (B, Q, 3)."""
        return self.queries.expand(len(place), -1, -1)


class SetDecoder(nn.Module):
    """Queries that attend to BEV maps and become boxes.

    Args:
        embed_dim: Channels of queries and maps.
        num_heads: Attention heads.
        num_layers: Decoder layers, each with its own prediction heads.
        num_queries: Queries.
        num_points: BEV samples per head and map of the cross-attention.
        num_levels: Maps.
        grid: The grid over whose extent reference points are normalised; maps of any resolution cover it.
        num_classes: Classes.
        feedforward_dim: Hidden channels of the feed-forward blocks.
        dropout: Dropout probability.
        query_interaction: Makes the interaction of one layer, see `QueryAttention`; None for multi-head attention.
        query_selection: Where queries start: learned, or on the peaks of a heatmap of the first map.
        spread_references: Whether learned reference points at first cover the grid evenly instead of at random.
        query_position: Positional part of the queries: of their reference points (sine), or parameters (learned).
        head_layers: Hidden layers of each prediction head.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        num_layers: int,
        num_queries: int,
        num_points: int,
        num_levels: int,
        grid: BevGrid,
        num_classes: int = NUM_CLASSES,
        feedforward_dim: int = 512,
        dropout: float = 0.1,
        query_interaction: Callable[[], nn.Module] | None = None,
        query_selection: QuerySelection = "learned",
        spread_references: bool = True,
        query_position: QueryPosition = "sine",
        head_layers: int = 1,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.selection: nn.Module
        if query_selection == "heatmap":
            self.selection = HeatmapSelection(embed_dim, num_classes, num_queries)
        else:
            self.selection = LearnedQueries(embed_dim, num_queries, spread_references)
        self.position: nn.Module
        self.position = SinePosition(embed_dim) if query_position == "sine" else LearnedPosition(embed_dim, num_queries)
        make_interaction = query_interaction or (lambda: QueryAttention(embed_dim, num_heads, dropout))
        self.layers = nn.ModuleList(
            DecoderLayer(
                make_interaction(),
                MultiScaleDeformableAttention(
                    embed_dim=embed_dim, num_heads=num_heads, num_levels=num_levels, num_points=num_points
                ),
                FeedForward(embed_dim, feedforward_dim, dropout),
                dropout,
            )
            for _ in range(num_layers)
        )
        self.class_heads = nn.ModuleList(_class_head(embed_dim, num_classes, head_layers) for _ in range(num_layers))
        self.box_heads = nn.ModuleList(_box_head(embed_dim, head_layers) for _ in range(num_layers))

    def forward(self, levels: Sequence[Tensor], start_on: Tensor | None = None) -> SetPrediction:
        """Predict from maps over the grid's extent, rows along y and columns along x.

        Args:
            levels: The maps (B, C, h, w), finest first.
            start_on: Another heatmap, logits (B, K, h, w), on whose peaks queries of a heatmap start; None: that of the
                first level.
        """
        selected: Selection = self.selection(levels[0], start_on)
        # References are kept as logits: near the border, float32 loses what a sigmoid there and back would need.
        content, reference = selected.content, selected.reference
        logits, codes, features = [], [], []
        for layer, class_head, box_head in zip(self.layers, self.class_heads, self.box_heads, strict=True):
            place = reference.sigmoid()
            position = self.position(place)
            content = layer(content, position, place[..., :2], levels)
            with without_autocast(content.device.type):  # half precision would round by 0.05 to 0.2 m
                code, refined = self._code(box_head(content.float()), reference)
                logits.append(class_head(content.float()))
            codes.append(code)
            features.append(content)
            reference = refined.detach()
        return SetPrediction(
            logits=torch.stack(logits),
            codes=torch.stack(codes),
            features=torch.stack(features),
            heatmap=selected.heatmap,
        )

    def _code(self, output: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """Regression code (B, Q, 10) in metres of raw output (B, Q, 10), and its centre as logits (B, Q, 3)."""
        # By slices: a list of columns would be copied to the device, which waits for it.
        centre = torch.cat([output[..., column : column + 1] for column in CENTRE_CODES], dim=-1) + reference
        x, y, z = self.grid.denormalize(centre.sigmoid()).unbind(dim=-1)
        columns = list(output.unbind(dim=-1))
        for column, value in zip(CENTRE_CODES, (x, y, z), strict=True):
            columns[column] = value
        return torch.stack(columns, dim=-1), centre


def spread_points(count: int) -> Tensor:
    """Points (count, 3) in (0, 1) that cover x and y evenly (Halton sequence); z is 0.4, about where objects are."""
    x, y = (torch.tensor([_radical_inverse(index, base) for index in range(1, count + 1)]) for base in (2, 3))
    return torch.stack([x, y, torch.full_like(x, 0.4)], dim=-1)


def _radical_inverse(index: int, base: int) -> float:
    """The digits of `index` mirrored at the point."""
    value, scale = 0.0, 1.0 / base
    while index:
        index, digit = divmod(index, base)
        value += digit * scale
        scale /= base
    return value


def _class_head(embed_dim: int, num_classes: int, num_hidden: int) -> nn.Sequential:
    hidden = [(nn.Linear(embed_dim, embed_dim), nn.LayerNorm(embed_dim), nn.ReLU()) for _ in range(num_hidden)]
    last = nn.Linear(embed_dim, num_classes)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.constant_(last.bias, math.log(PRIOR_PROBABILITY / (1 - PRIOR_PROBABILITY)))
    return nn.Sequential(*itertools.chain(*hidden), last)


def _box_head(embed_dim: int, num_hidden: int) -> nn.Sequential:
    """Its last layer starts near zero, so that boxes start at their reference points."""
    hidden = [(nn.Linear(embed_dim, embed_dim), nn.ReLU()) for _ in range(num_hidden)]
    last = nn.Linear(embed_dim, CODE_SIZE)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*itertools.chain(*hidden), last)

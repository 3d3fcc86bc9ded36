"""Queries that start at the peaks of a class heatmap, as in TransFusion (arXiv 2203.11496), section 3.2.

A learned query has to find its object first; one that starts on a peak knows place and class, and a detector learns to
refine it within minutes instead of days. Deviation: peaks are those of a 3x3 window for every class.

Shape legend: B batch, C channels, K classes, Q queries, h w cells of the map.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

QuerySelection = Literal["learned", "heatmap"]

_INITIAL_LOGIT = -2.19  # a score of 0.1 everywhere keeps the first steps from being all about empty cells
_INITIAL_HEIGHT = 0.4  # share of the grid's height range at which objects are


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Where the queries of a batch start."""

    content: Tensor  # (B, Q, C)
    reference: Tensor  # (B, Q, 3) logits of x, y, z over the grid's extent
    heatmap: Tensor | None  # (B, K, h, w) logits; None where queries are learned


class HeatmapSelection(nn.Module):
    """Predicts a class heatmap of a BEV map and takes its best peaks as queries.

    Args:
        channels: Of the map and the queries.
        num_classes: Classes.
        num_queries: Peaks to take.
    """

    def __init__(self, channels: int, num_classes: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        last = nn.Conv2d(channels, num_classes, 3, padding=1)
        assert last.bias is not None
        nn.init.constant_(last.bias, _INITIAL_LOGIT)
        self.head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.GroupNorm(4, channels), nn.ReLU(), last
        )
        self.content = nn.Linear(channels, channels)
        self.class_content = nn.Embedding(num_classes, channels)
        self.class_height = nn.Parameter(torch.full((num_classes,), _INITIAL_HEIGHT).logit())

    def forward(self, bev: Tensor, start_on: Tensor | None = None) -> Selection:
        """Select queries on a map that covers the grid, rows along y and columns along x.

        Args:
            bev: The map (B, C, h, w), whose features they take.
            start_on: Another heatmap, logits (B, K, h, w), on whose peaks they start; None: that of the map.

        Raises:
            ValueError: The map has fewer cells and classes than queries are wanted.
        """
        heatmap = self.head(bev).float()
        classes, cells = self._peaks(heatmap if start_on is None else start_on)
        features = bev.flatten(2).gather(2, cells.unsqueeze(1).expand(-1, bev.shape[1], -1)).transpose(1, 2)
        rows, cols = bev.shape[-2:]
        x, y = (cells % cols + 0.5) / cols, (cells // cols + 0.5) / rows
        place = torch.stack([x.logit(), y.logit(), self.class_height[classes]], dim=-1)
        return Selection(content=self.content(features) + self.class_content(classes), reference=place, heatmap=heatmap)

    def _peaks(self, heatmap: Tensor) -> tuple[Tensor, Tensor]:
        """Class and cell (B, Q) of the best peaks, best first; what is no peak comes after all that are."""
        scores = heatmap.detach().sigmoid()
        scores = torch.where(max_pool2d(scores, 3, stride=1, padding=1) == scores, scores, scores - 1).flatten(1)
        if scores.shape[1] < self.num_queries:
            raise ValueError(f"{self.num_queries} queries can't be chosen from {scores.shape[1]} cells and classes")
        best = scores.topk(self.num_queries, dim=1).indices
        num_cells = heatmap.shape[-2] * heatmap.shape[-1]
        return best // num_cells, best % num_cells

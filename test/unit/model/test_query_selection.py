"""Queries that start on the peaks of a heatmap."""

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.query_selection import HeatmapSelection

CHANNELS, CLASSES, QUERIES = 8, 3, 2
GRID = BevGrid(x_min=-8.0, x_max=8.0, y_min=-4.0, y_max=4.0, rows=4, cols=8)


class Painted(nn.Module):
    """Stands for the heatmap head: the heatmap is what the map's first channels hold."""

    def forward(self, bev: Tensor) -> Tensor:
        return bev[:, :CLASSES]


def make_selection() -> HeatmapSelection:
    torch.manual_seed(0)
    selection = HeatmapSelection(CHANNELS, CLASSES, QUERIES)
    selection.head = nn.Sequential(Painted())
    return selection


def painted_map() -> Tensor:
    bev = torch.full((1, CHANNELS, GRID.rows, GRID.cols), -5.0)
    bev[0, 1, 2, 6] = 3.0  # class 1 at row 2 (y = 1 m), column 6 (x = 5 m)
    bev[0, 1, 2, 5] = 2.9  # its neighbour, which is no peak
    bev[0, 0, 0, 1] = 1.0  # class 0 at row 0 (y = -3 m), column 1 (x = -5 m)
    return bev


def test_queries_start_on_the_peaks_best_first() -> None:
    selected = make_selection()(painted_map())
    places = GRID.denormalize(selected.reference[0, :, :2].sigmoid())
    torch.testing.assert_close(places, torch.tensor([[5.0, 1.0], [-5.0, -3.0]]))


def test_content_holds_the_feature_of_the_cell_and_the_class() -> None:
    selection, bev = make_selection(), painted_map()
    expected = selection.content(bev[0, :, 2, 6]) + selection.class_content.weight[1]
    torch.testing.assert_close(selection(bev).content[0, 0], expected)


def test_batch_of_two_is_two_batches_of_one() -> None:
    torch.manual_seed(1)
    selection, bev = HeatmapSelection(CHANNELS, CLASSES, QUERIES), torch.randn(2, CHANNELS, 4, 8)
    both = selection(bev)
    for item in range(2):
        alone = selection(bev[item : item + 1])
        torch.testing.assert_close(both.content[item], alone.content[0])
        torch.testing.assert_close(both.reference[item], alone.reference[0])


def test_more_queries_than_places_are_refused() -> None:
    selection = HeatmapSelection(CHANNELS, CLASSES, 1000)
    with pytest.raises(ValueError, match="1000 queries can't be chosen from 96"):
        selection(torch.zeros(1, CHANNELS, 4, 8))


def test_decoder_hands_on_the_heatmap_and_trains_it() -> None:
    decoder = SetDecoder(
        embed_dim=CHANNELS,
        num_heads=2,
        num_layers=1,
        num_queries=QUERIES,
        num_points=1,
        num_levels=1,
        grid=GRID,
        feedforward_dim=8,
        query_selection="heatmap",
    )
    predictions = decoder([torch.randn(1, CHANNELS, 4, 8)])
    assert predictions.heatmap is not None
    assert predictions.heatmap.shape == (1, 10, 4, 8)
    (predictions.heatmap.sum() + predictions.codes.sum()).backward()
    assert all(weight.grad is not None for weight in decoder.selection.parameters())

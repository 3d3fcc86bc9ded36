"""The LiDAR teacher."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import decode_boxes
from bevdistill_ros.core.grid import BevGrid
from training.criterion.matcher import HungarianMatcher
from training.criterion.set_loss import SetCriterion
from training.teacher.backbone import BevBackbone
from training.teacher.bev_encoder import BevEncoder, cell_centres
from training.teacher.graph_interaction import GraphInteraction
from training.teacher.object_dgcnn import ObjectDgcnn, TeacherConfig

GRID = BevGrid(x_min=-12.8, x_max=12.8, y_min=-12.8, y_max=12.8, rows=16, cols=16)
TINY = TeacherConfig(
    grid=GRID,
    pillar_stride=2,
    point_channels=(16,),
    stage_channels=(16, 32),
    stage_layers=2,
    num_levels=3,
    embed_dim=32,
    num_heads=4,
    num_points=2,
    feedforward_dim=64,
    dropout=0.0,
    encoder_layers=1,
    decoder_layers=2,
    num_queries=24,
    num_neighbours=4,
)


def cloud(seed: int, count: int = 400) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 5, generator=generator)
    points[:, :2] = 24 * points[:, :2] - 12
    return points


def teacher(**changes: object) -> ObjectDgcnn:
    torch.manual_seed(0)
    return ObjectDgcnn(replace(TINY, **changes))


@pytest.mark.parametrize("query_interaction", ["attention", "dgcnn"])
def test_shapes_of_the_output(query_interaction: str) -> None:
    output = teacher(query_interaction=query_interaction)([cloud(0), cloud(1, count=90)])
    assert output.encoded is not None
    assert output.predictions is not None
    assert output.grid == GRID
    assert tuple(output.finest.shape) == tuple(output.encoded.shape) == (2, 32, 16, 16)
    assert tuple(output.predictions.logits.shape) == (2, 2, 24, 10)
    assert tuple(output.predictions.codes.shape) == (2, 2, 24, 10)
    assert tuple(output.predictions.features.shape) == (2, 2, 24, 32)


@pytest.mark.parametrize("query_interaction", ["attention", "dgcnn"])
def test_batch_of_three_is_three_batches_of_one_in_eval(query_interaction: str) -> None:
    model = teacher(query_interaction=query_interaction)
    model([cloud(0), cloud(1)])
    model.eval()
    clouds = [cloud(2), torch.zeros(0, 5), cloud(3, count=200)]
    with torch.no_grad():
        together, alone = model(clouds), [model([points]) for points in clouds]
    torch.testing.assert_close(together.finest, torch.cat([one.finest for one in alone]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.encoded, torch.cat([one.encoded for one in alone]), atol=1e-4, rtol=1e-4)
    codes = torch.cat([one.predictions.codes for one in alone], dim=1)
    torch.testing.assert_close(together.predictions.codes, codes, atol=1e-3, rtol=1e-3)


def test_without_encoder_the_decoder_reads_the_pyramid() -> None:
    output = teacher(encoder_layers=0)([cloud(0)])
    assert output.encoded is None
    assert output.predictions is not None


@pytest.mark.parametrize("query_interaction", ["attention", "dgcnn"])
def test_gradients_reach_every_parameter(query_interaction: str) -> None:
    model = teacher(query_interaction=query_interaction)
    output = model([cloud(0), cloud(1)])
    assert output.encoded is not None
    assert output.predictions is not None
    (output.predictions.logits.square().sum() + output.predictions.codes.square().sum()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_maps_have_rows_along_y() -> None:
    model = teacher().eval()
    block = torch.rand(300, 5, generator=torch.Generator().manual_seed(0))
    block[:, 0] = 8.0 + block[:, 0]  # columns 13, 14
    block[:, 1] = -6.0 + block[:, 1]  # rows 4
    with torch.no_grad():
        difference = (model([block]).finest - model([torch.zeros(0, 5)]).finest)[0].abs().sum(dim=0)
    row, col = divmod(int(difference.argmax()), 16)
    assert abs(row - 4) <= 1
    assert abs(col - 13) <= 1


def test_backbone_levels_halve() -> None:
    backbone = BevBackbone(in_channels=4, num_halvings=2, stage_channels=(6, 8, 10), stage_layers=1)
    maps = backbone(torch.zeros(1, 4, 64, 32))
    assert [tuple(entry.shape) for entry in maps] == [(1, 6, 16, 8), (1, 8, 8, 4), (1, 10, 4, 2)]


def test_cell_centres_are_those_of_the_grid() -> None:
    grid = BevGrid(x_min=-4.0, x_max=8.0, y_min=0.0, y_max=6.0, rows=3, cols=4)
    centres = cell_centres(3, 4, device=torch.device("cpu"))
    torch.testing.assert_close(grid.denormalize(centres), grid.cell_centres().flatten(0, 1))


def test_encoder_keeps_shapes_and_its_inputs() -> None:
    torch.manual_seed(0)
    encoder = BevEncoder(
        embed_dim=8, num_heads=2, num_layers=2, num_levels=2, num_points=2, feedforward_dim=16, dropout=0.0
    )
    levels = [torch.randn(2, 8, 6, 4), torch.randn(2, 8, 3, 2)]
    before = [level.clone() for level in levels]
    encoded = encoder(levels)
    assert [entry.shape for entry in encoded] == [level.shape for level in levels]
    assert all(torch.equal(first, second) for first, second in zip(before, levels, strict=True))


def test_encoder_carries_the_coarse_level_into_the_fine_one() -> None:
    torch.manual_seed(0)
    encoder = BevEncoder(
        embed_dim=8, num_heads=2, num_layers=1, num_levels=2, num_points=2, feedforward_dim=16, dropout=0.0
    )
    fine, coarse = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 4, 4)
    moved = coarse.clone()
    moved[0, :, 3, 3] += 5.0
    changed = (encoder([fine, coarse])[0] - encoder([fine, moved])[0]).abs().sum(dim=1)[0] > 1e-5
    assert changed[6:, 6:].all()
    assert not changed[0, 0]


def test_graph_interaction_equals_a_slow_loop() -> None:
    torch.manual_seed(0)
    layer = GraphInteraction(embed_dim=6, num_neighbours=3)
    content, position = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    update = layer(content, position)
    query = content + position
    for item in range(2):
        for own in range(9):
            distance = (query[item] - query[item, own]).norm(dim=-1)
            edges = []
            for other in distance.argsort()[:3].tolist():
                pair = torch.cat([query[item, own], query[item, other] - query[item, own]])
                edges.append(layer.output(layer.edge(pair).relu()))
            torch.testing.assert_close(update[item, own], torch.stack(edges).amax(dim=0), atol=1e-5, rtol=1e-5)


def test_graph_interaction_follows_a_permutation() -> None:
    torch.manual_seed(0)
    layer = GraphInteraction(embed_dim=6, num_neighbours=3)
    content, position = torch.randn(1, 9, 6), torch.randn(1, 9, 6)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(content[:, order], position[:, order]), layer(content, position)[:, order])


def test_default_is_the_paper_scale() -> None:
    config = TeacherConfig()
    assert (config.grid.rows, config.pillar_grid.rows, config.num_levels, config.embed_dim) == (128, 512, 4, 256)
    assert config.pillar_grid.cell_size == pytest.approx((0.2, 0.2))
    assert (config.num_queries, config.encoder_layers, config.decoder_layers, config.num_neighbours) == (300, 2, 6, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pillar_stride": 3}, "pillar_stride must be one of 1, 2, 4, 8, but is 3"),
        ({"query_interaction": "graph"}, "must be one of attention, dgcnn, but is 'graph'"),
        ({"embed_dim": 30}, "divisible by num_heads"),
        ({"num_levels": 1}, r"at least the number of stages \(2\), but is 1"),
        ({"num_levels": 6}, "divisible by 32 for 6 levels"),
        ({"stage_channels": ()}, "stage_channels must hold at least one"),
        ({"num_queries": 0}, "num_queries must be at least 1"),
        ({"dropout": 1.0}, "dropout"),
        ({"encoder_layers": -1}, "encoder_layers must not be negative"),
        ({"query_interaction": "dgcnn", "num_neighbours": 25}, r"must not exceed num_queries \(24\), but is 25"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_teacher_learns_a_frame_by_heart() -> None:
    """Two boxes of points: after a few steps the best queries lie on them."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor(
        [[6.0, 3.0, 0.5, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0], [-5.0, -7.0, 0.5, 1.0, 1.0, 1.8, 0.0, 0.0, 0.0]]
    )
    labels = torch.tensor([0, 8])
    unit = torch.rand(2, 150, 3, generator=generator) - 0.5
    places = boxes[:, None, :3] + unit * boxes[:, None, 3:6]
    points = torch.cat([places.flatten(0, 1), torch.rand(300, 2, generator=generator)], dim=1)
    model, criterion = teacher(), SetCriterion(HungarianMatcher(), grid=GRID)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        losses = criterion(model([points]).predictions, [boxes], [labels])
        optimizer.zero_grad()
        (2.0 * losses["classification"] + 0.25 * losses["box"]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 35.0)
        optimizer.step()
    predictions = model.eval()([points]).predictions
    assert predictions is not None
    scores = predictions.logits[-1, 0].sigmoid()
    for box, label in zip(boxes, labels, strict=True):
        best = int(scores[:, label].argmax())
        found = decode_boxes(predictions.codes[-1, 0, best])
        assert scores[best, label] > 0.3
        assert (found[:2] - box[:2]).norm() < 1.0


def test_mixed_precision_gives_finite_losses_and_gradients() -> None:
    model, criterion = teacher(query_interaction="dgcnn"), SetCriterion(HungarianMatcher(), grid=GRID)
    box = torch.tensor([[6.0, 3.0, 0.5, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(model([cloud(0)]).predictions, [box], [torch.tensor([0])])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)

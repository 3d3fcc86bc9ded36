"""Cross-head distillation: the student's map through the teacher's decoder."""

from dataclasses import replace

import pytest
import torch

from bevdistill_ros.model.decoder import SetDecoder
from training.distill.base import DistillShapes
from training.distill.cross_head import CrossHeadConfig
from training.distill.queries import class_divergence

WIDTH = 8  # channels of maps whose decoder chooses queries on a heatmap


@pytest.fixture
def make_decoder(grid):
    def make(num_layers=2):
        torch.manual_seed(0)
        decoder = SetDecoder(
            embed_dim=WIDTH, num_heads=2, num_layers=num_layers, num_queries=5, num_points=2, num_levels=1, grid=grid,
            feedforward_dim=8, dropout=0.3, query_selection="heatmap",
        )  # fmt: skip
        for parameter in decoder.parameters():  # also those that start at zero
            torch.nn.init.normal_(parameter, std=0.5)
        return decoder.eval()

    return make


@pytest.fixture
def heatmap_decoder(make_decoder):
    return make_decoder()


@pytest.fixture
def distiller_of(grid, shapes_of):
    def make(decoder, channels, adapter="orthogonal"):
        return CrossHeadConfig(adapter=adapter).build(shapes_of(grid, channels, decoder))

    return make


def on_maps(scene, student_bev, said):
    return replace(scene.student, bev=student_bev), replace(scene.teacher, predictions=said), scene.batch


def test_the_teachers_own_map_gives_zero_and_another_does_not(make_scene, grid, make_decoder, distiller_of):
    bev = torch.randn(2, WIDTH, grid.rows, grid.cols)
    decoder = make_decoder(num_layers=1)
    distiller = distiller_of(decoder, WIDTH)  # its adapter starts as the identity
    said = decoder([bev])
    same = distiller(*on_maps(make_scene(), bev.clone(), said))
    torch.testing.assert_close(same, {name: torch.zeros(()) for name in same}, atol=1e-3, rtol=0)
    other = distiller(*on_maps(make_scene(), bev + 0.3 * torch.randn_like(bev), said))
    assert all(value > 0.05 for value in other.values())


def test_matches_a_loop(make_scene, grid, heatmap_decoder, distiller_of):
    student_bev, teacher_bev = torch.randn(2, 2, WIDTH, grid.rows, grid.cols)
    target = heatmap_decoder([teacher_bev])
    losses = distiller_of(heatmap_decoder, WIDTH, "none")(*on_maps(make_scene(), student_bev, target))
    crossed = heatmap_decoder([student_bev], target.heatmap)
    classes = boxes = 0.0
    for item in range(2):
        scores = target.logits[-1, item].sigmoid().amax(dim=-1)
        count = max(scores.sum().item(), 1.0)
        for layer in range(2):
            for query, score in enumerate(scores.tolist()):
                said = crossed.logits[layer, item, query]
                classes += class_divergence(said, target.logits[-1, item, query]).item() / count
                error = (crossed.codes[layer, item, query] - target.codes[-1, item, query]).abs()
                boxes += score * (error[:8].sum() + 0.2 * error[8:].sum()).item() / count
        cells = class_divergence(crossed.heatmap[item].permute(1, 2, 0), target.heatmap[item].permute(1, 2, 0))
        classes += cells.sum().item() / count
    assert losses["cross_class"].item() == pytest.approx(classes / 2, rel=1e-3)
    assert losses["cross_box"].item() == pytest.approx(boxes / 2, rel=1e-3)


def test_queries_start_where_the_teachers_do(grid, heatmap_decoder):
    student_bev, teacher_bev = torch.randn(2, 2, WIDTH, grid.rows, grid.cols)
    selection = heatmap_decoder.selection
    chosen = selection(teacher_bev)
    crossed = selection(student_bev, chosen.heatmap)
    assert torch.equal(crossed.reference, chosen.reference)
    assert not torch.equal(crossed.reference, selection(student_bev).reference)
    assert torch.equal(crossed.heatmap, selection(student_bev).heatmap)


def test_the_decoder_stays_as_it_is_and_is_not_the_students(make_scene, channels, teacher_decoder, distiller_of):
    before = {name: value.clone() for name, value in teacher_decoder.state_dict().items()}
    scene = make_scene()
    distiller = distiller_of(teacher_decoder, channels).train()
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1.0)
    sum(distiller(scene.student, scene.teacher, scene.batch).values()).backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in teacher_decoder.state_dict().items())
    assert not any("head" in name or "decoder" in name for name in distiller.state_dict())
    weight = distiller.adapter.turn.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(channels), atol=1e-4, rtol=1e-4)
    assert not torch.equal(weight, torch.eye(channels))


def test_the_decoder_goes_along_to_another_device(channels, teacher_decoder, distiller_of):
    distiller = distiller_of(teacher_decoder, channels).to("meta")
    assert all(value.is_meta for value in distiller._head[0].parameters())


def test_what_does_not_fit_is_refused(grid, teacher_decoder):
    shapes = {"grid": grid, "student_channels": 4, "teacher_channels": 6}
    features = {"student_feature_dim": 4, "teacher_feature_dim": 6}
    with pytest.raises(ValueError, match=r"reads 6 channels, but the student's map has 4; set .*adapter to orthogonal"):
        CrossHeadConfig(adapter="none").build(DistillShapes(**shapes, **features, teacher_decoder=teacher_decoder))
    with pytest.raises(ValueError, match=r"needs a teacher with a decoder of ours.*choose distill\.method bevdistill"):
        CrossHeadConfig().build(DistillShapes(**shapes, **features))
    with pytest.raises(ValueError, match="adapter must be none or orthogonal, but is 'conv'"):
        CrossHeadConfig(adapter="conv")

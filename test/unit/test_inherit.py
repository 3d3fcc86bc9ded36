from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.decoder import SetDecoder
from training.run.config import TrainConfig
from training.run.fit import build_module
from training.teacher.load import load_teacher
from training.weights.inherit import inherit_decoder, on_finest_map

GRID = BevGrid(rows=8, cols=10)


def decoder(**changes: object) -> SetDecoder:
    settings = {"embed_dim": 16, "num_heads": 2, "num_layers": 2, "num_queries": 6, "num_points": 2, "num_levels": 1}
    made = SetDecoder(**{**settings, "grid": GRID, "feedforward_dim": 24, "dropout": 0.0, **changes}).eval()
    for parameter in made.parameters():  # also those that start at zero
        nn.init.normal_(parameter, std=0.3)
    return made


def test_the_same_map_gives_the_same_predictions() -> None:
    torch.manual_seed(0)
    teacher, student = decoder(), decoder()
    inherit_decoder(student, teacher)
    bev = torch.randn(2, 16, 8, 10)
    assert torch.equal(student([bev]).codes, teacher([bev]).codes)


def test_more_points_share_the_place_and_weight_of_one() -> None:
    torch.manual_seed(0)
    teacher, student = decoder(), decoder(num_points=6)
    inherit_decoder(student, teacher)
    bev = torch.randn(1, 16, 8, 10)
    torch.testing.assert_close(student([bev]).logits, teacher([bev]).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("points", "levels"), [(6, 3), (2, 1), (12, 3)])
def test_points_on_coarse_maps_stay_where_they_were_or_are_left_out(points: int, levels: int) -> None:
    torch.manual_seed(0)
    teacher, student = decoder(num_levels=3, num_layers=4), decoder(num_points=points)
    inherit_decoder(student, teacher)
    for layer, theirs in zip(student.layers, teacher.layers, strict=False):
        offsets = theirs.cross_attention.sampling_offsets.bias.view(2, 3, 2, 2)[:, :levels]
        in_cells = offsets * torch.tensor([1.0, 2.0, 4.0][:levels])[:, None, None]  # of the finest map
        expected = in_cells.flatten(1, 2).repeat_interleave(points // (2 * levels), dim=1)
        assert torch.equal(layer.cross_attention.sampling_offsets.bias.view(2, points, 2), expected)
        weights = theirs.cross_attention.attention_weights.bias.view(2, 3, 2)[:, :levels].flatten(1)
        repeated = weights.repeat_interleave(points // (2 * levels), dim=1)
        assert torch.equal(layer.cross_attention.attention_weights.bias.view(2, points), repeated)
        assert torch.equal(layer.feed_forward.state_dict()["0.weight"], theirs.feed_forward.state_dict()["0.weight"])


def test_coarse_maps_that_repeat_the_finest_can_be_left_out() -> None:
    """On maps that change nowhere it does not matter on which of them a point lies."""
    torch.manual_seed(0)
    whole = decoder(num_levels=2)
    value = torch.randn(1, 16, 1, 1)
    maps = [value.expand(1, 16, 40, 40), value.expand(1, 16, 20, 20)]
    for layer in whole.layers:
        nn.init.normal_(layer.cross_attention.sampling_offsets.weight, std=0.01)
        nn.init.normal_(layer.cross_attention.sampling_offsets.bias, std=0.01)
    with torch.no_grad():
        whole.selection.reference.mul_(0.1)
    torch.testing.assert_close(on_finest_map(whole)(maps[:1]).logits, whole(maps).logits, atol=1e-3, rtol=1e-3)


def test_a_student_that_selects_queries_in_another_way_keeps_its_own() -> None:
    torch.manual_seed(0)
    teacher, student = decoder(query_selection="heatmap"), decoder()
    before = student.selection.content.clone()
    inherit_decoder(student, teacher)
    assert torch.equal(student.selection.content, before)
    assert torch.equal(student.class_heads[0][0].weight, teacher.class_heads[0][0].weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 3}, "has 2 layers, which can't start the student's 3"),
        ({"num_points": 3}, "does not fit the student's: of layers.0.cross_attention.sampling_offsets.weight"),
        ({"feedforward_dim": 32}, "does not fit the student's"),
    ],
)
def test_decoders_that_do_not_fit_are_refused(changes: dict[str, int], message: str) -> None:
    student = decoder(**changes)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        inherit_decoder(student, decoder())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_decoder_of_one_map_is_the_same_on_its_finest_map() -> None:
    torch.manual_seed(0)
    whole = decoder()
    single = on_finest_map(whole)
    bev = torch.randn(2, 16, 8, 10)
    torch.testing.assert_close(single([bev]).codes, whole([bev]).codes, atol=1e-3, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in single.parameters())
    assert on_finest_map(decoder(num_levels=3))([bev]).codes.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"distill.inherit": "decoder"},
        {"distill.inherit": "decoder", "distill.method": "bevdistill_dense"},
        {"distill.method": "bevdistill"},
        {"distill.method": "bevdistill_dense"},
        {"distill.method": "bevdistill_plus"},
    ],
)
def test_a_run_starts_with_the_decoder_of_its_teacher(
    changes: dict[str, str], make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path
) -> None:
    changes = {**changes, "teacher_checkpoint": str(tiny_teacher)}
    module = build_module(make_run(tmp_path / "run", **changes))
    teacher = load_teacher(tiny_teacher)[1].module
    assert torch.equal(module.model.decoder.box_heads[0][0].weight, teacher.decoder.box_heads[0][0].weight)  # type: ignore[union-attr, index]
    if "distill.method" in changes:  # its map is compared with the teacher's as it is
        assert isinstance(module.distiller.parts["bevdistill_dense"].student_adapter, nn.Identity)  # type: ignore[union-attr, index]


def test_a_decoder_that_does_not_fit_stays_the_students_own(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"teacher_checkpoint": str(tiny_teacher), "student.feedforward_dim": 24}
    torch.manual_seed(0)
    one = build_module(make_run(tmp_path / "run", **changes, **{"distill.method": "bevdistill"}))
    assert "the student's decoder starts at random weights: the teacher's decoder does not fit" in caplog.text
    assert isinstance(one.distiller.parts["bevdistill_dense"].student_adapter, nn.Sequential)  # type: ignore[union-attr, index]
    torch.manual_seed(0)
    other = build_module(make_run(tmp_path / "run", **changes))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True))
    with pytest.raises(ValueError, match="does not fit"):
        build_module(make_run(tmp_path / "run", **changes, **{"distill.inherit": "decoder"}))


def test_weights_to_start_from_hold_a_decoder(
    make_run: Callable[..., TrainConfig], tiny_teacher: Path, tmp_path: Path
) -> None:
    start = {"run.initial_weights": "some.ckpt", "teacher_checkpoint": str(tiny_teacher)}
    with pytest.raises(ValueError, match="initial_weights holds a decoder already"):
        make_run(tmp_path / "run", **start, **{"distill.inherit": "decoder"})
    with pytest.raises(ValueError, match=r"inherit decoder needs a teacher: set teacher_checkpoint"):
        make_run(tmp_path / "run", **{"distill.inherit": "decoder"})
    assert not make_run(tmp_path / "run", **start, **{"distill.method": "bevdistill_plus"}).inherits_decoder

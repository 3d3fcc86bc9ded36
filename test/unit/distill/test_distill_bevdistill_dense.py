"""The dense part of BEVDistill."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from training.distill.bevdistill_dense import BevDistillDenseConfig
from training.distill.foreground import foreground_mask


def build(shapes, **settings):
    torch.manual_seed(0)
    return BevDistillDenseConfig(tap="encoded", **settings).build(shapes)


def without_adapters(shapes, **settings):
    distiller = build(shapes, **settings, teacher_adapter="none")
    distiller.student_adapter = nn.Identity()
    return distiller


@pytest.mark.parametrize("sigma", [1.6, 0.9])
def test_by_hand(sigma, grid, channels, shapes, make_scene, make_batch):
    row, col = 5, 12
    x, y = grid.cell_centres()[row, col].tolist()
    box = torch.tensor([[x, y, 1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]])
    scene = make_scene((1,))
    teacher_bev = torch.zeros(1, channels, grid.rows, grid.cols)
    student_bev = teacher_bev.clone()
    student_bev[0, 0, row, col] = 2.0
    student_bev[0, 1, row, col] = 1.0
    student_bev[0, 2, row, col + 1] = 3.0
    loss = without_adapters(shapes, sigma=sigma)(
        replace(scene.student, bev=student_bev),
        replace(scene.teacher, encoded=teacher_bev),
        make_batch([box], [torch.zeros(1, dtype=torch.int64)]),
    )["dense"]
    weights = foreground_mask("soft", [box], grid, sigma=sigma).sum()
    assert loss.item() == pytest.approx((5.0 + 9.0 * math.exp(-(0.8**2) / (2 * sigma**2))) / weights.item())


@pytest.mark.parametrize("mask", ["none", "box", "soft", "soft_sharp", "teacher_score"])
def test_matches_a_loop(mask, grid, shapes, make_scene):
    scene = make_scene((3, 2))
    loss = without_adapters(shapes, mask=mask, sigma=1.1)(scene.student, scene.teacher, scene.batch)["dense"]
    weights = foreground_mask(mask, scene.batch.boxes, grid, sigma=1.1, predictions=scene.teacher.predictions)
    items = []
    for item in range(2):
        total, weight = 0.0, 0.0
        for row in range(grid.rows):
            for col in range(grid.cols):
                difference = scene.student.bev[item, :, row, col] - scene.teacher.encoded[item, :, row, col]
                total += weights[item, row, col].item() * difference.square().sum().item()
                weight += weights[item, row, col].item()
        items.append(total / max(weight, 1.0))
    assert loss.item() == pytest.approx(sum(items) / 2, rel=1e-4)


def test_same_maps_give_zero(shapes, make_scene):
    scene = make_scene()
    student = replace(scene.student, bev=scene.teacher.encoded.detach())
    assert without_adapters(shapes)(student, scene.teacher, scene.batch)["dense"] == 0


@pytest.mark.parametrize("teacher_adapter", ["norm", "conv", "none"])
def test_without_objects_loss_and_gradients_are_zero(teacher_adapter, shapes, make_scene):
    scene = make_scene((0, 0))
    distiller = build(shapes, teacher_adapter=teacher_adapter)
    loss = distiller(scene.student, scene.teacher, scene.batch)["dense"]
    loss.backward()
    assert loss == 0
    assert scene.student.bev.grad.abs().sum() == 0


def test_scale_of_the_teacher_does_not_matter_once_normalised(shapes, make_scene):
    scene = make_scene()
    larger = replace(scene.teacher, encoded=10 * scene.teacher.encoded + 3)
    distiller = build(shapes)
    expected = distiller(scene.student, scene.teacher, scene.batch)["dense"]
    torch.testing.assert_close(distiller(scene.student, larger, scene.batch)["dense"], expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize(("teacher_adapter", "is_signed"), [("norm", True), ("none", True), ("conv", False)])
def test_student_reaches_below_zero_where_the_teacher_does(teacher_adapter, is_signed, shapes, make_scene):
    scene = make_scene()
    distiller = build(shapes, teacher_adapter=teacher_adapter)
    student, teacher = distiller.student_adapter(scene.student.bev), distiller.teacher_adapter(scene.teacher.encoded)
    assert (student < 0).any() == (teacher < 0).any() == is_signed


def collapse(adapter):
    """Bring a convolution, normalisation and ReLU to put out zero."""
    nn.init.zeros_(adapter[1].weight)
    nn.init.constant_(adapter[1].bias, -1.0)


def test_two_trained_adapters_can_agree_on_nothing_but_a_normalised_teacher_stays(shapes, make_scene):
    scene = make_scene()
    trained = build(shapes, teacher_adapter="conv")
    collapse(trained.student_adapter)
    collapse(trained.teacher_adapter)
    loss = trained(scene.student, scene.teacher, scene.batch)["dense"]
    loss.backward()
    assert loss == 0
    assert scene.student.bev.grad.abs().sum() == 0

    fixed = build(shapes, teacher_adapter="norm")
    collapse(fixed.student_adapter)
    assert not list(fixed.teacher_adapter.parameters())
    assert fixed(scene.student, scene.teacher, scene.batch)["dense"] > 1.0


def test_student_map_learns_what_the_teacher_map_says(shapes, make_scene):
    scene = make_scene()
    distiller = build(shapes)
    bev = scene.student.bev.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([bev, *distiller.parameters()], lr=0.05)
    losses = []
    for _ in range(60):
        loss = distiller(replace(scene.student, bev=bev), scene.teacher, scene.batch)["dense"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_sigma_must_be_positive():
    with pytest.raises(ValueError, match="sigma must be above 0"):
        BevDistillDenseConfig(sigma=0.0)


def test_maps_are_compared_as_they_are_where_the_decoder_is_shared(shapes, make_scene):
    scene = make_scene((2, 1))
    student = replace(scene.student, bev=scene.teacher.encoded)
    shared = build(replace(shapes, shares_decoder=True))
    assert not list(shared.parameters())
    assert shared(student, scene.teacher, scene.batch)["dense"] == 0
    assert build(shapes)(student, scene.teacher, scene.batch)["dense"] > 0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"teacher_adapter": "norm"}, ("norm", "conv")),
        ({"student_adapter": "none"}, ("none", "none")),
        ({"student_adapter": "conv"}, ("norm", "conv")),
        ({"teacher_adapter": "conv"}, ("conv", "conv")),
        ({"tap": "finest"}, ("norm", "conv")),  # no map that the decoder reads
        ({"tap": "encoded"}, ("none", "none")),
    ],
)
def test_adapters_that_are_set_stay_with_a_shared_decoder(settings, expected):
    assert BevDistillDenseConfig(**settings).adapters(shares_decoder=True) == expected

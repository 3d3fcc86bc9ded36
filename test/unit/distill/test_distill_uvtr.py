"""UVTR."""

from dataclasses import replace

import pytest
import torch

from bevdistill_ros.model.records import SetPrediction
from training.distill.uvtr import UvtrConfig


@pytest.fixture
def distiller(shapes):
    return UvtrConfig(tap="encoded").build(shapes)


def looking_at(scene, points):
    """The scene's first item with a student of one layer whose queries predict these centres (Q, 2) [m]."""
    first = scene.item(0)
    codes = torch.zeros(1, 1, len(points), 10)
    codes[..., :2] = points
    predictions = SetPrediction(
        logits=torch.zeros(1, 1, len(points), 10), codes=codes, features=torch.zeros(1, 1, len(points), 1)
    )
    return replace(first, student=replace(first.student, predictions=predictions))


def test_by_hand(distiller, make_scene, grid, channels):
    scene = looking_at(make_scene(), grid.cell_centres()[[3, 9], [11, 2]])
    student_bev, teacher_bev = torch.zeros(2, 1, channels, grid.rows, grid.cols)
    student_bev[0, :4, 3, 11] = torch.tensor([1.0, -3.0, -1.0, 0.0])
    teacher_bev[0, :4, 3, 11] = torch.tensor([3.0, -1.0, -2.0, 2.0])  # active; not, above s; not, below s; active
    loss = distiller(replace(scene.student, bev=student_bev), replace(scene.teacher, encoded=teacher_bev), scene.batch)[
        "uvtr"
    ]
    assert loss.item() == pytest.approx((4.0 + 0.0 + 1.0 + 4.0) / 2)


def test_matches_a_loop(distiller, make_scene, grid, channels):
    scene = make_scene()
    items = []
    for item in range(2):
        layers = []
        for centres in scene.student.predictions.codes[:, item, :, :2].detach():
            errors = []
            for centre in centres:
                if not grid.contains(centre):
                    continue
                student, teacher = (
                    grid.sample(bev[item : item + 1], centre[None, None])[0, 0].tolist()
                    for bev in (scene.student.bev, scene.teacher.encoded)
                )
                pairs = zip(student, teacher, strict=True)
                errors.append(sum((s - t) ** 2 if s > t or t > 0 else 0.0 for s, t in pairs))
            layers.append(sum(errors) / max(len(errors), 1))
        items.append(sum(layers))
    loss = distiller(scene.student, scene.teacher, scene.batch)["uvtr"]
    assert loss.item() == pytest.approx(sum(items) / 2, rel=1e-4)


def test_centres_outside_the_grid_do_not_count(distiller, make_scene, grid):
    inside = grid.cell_centres()[3:4, 11]
    outside = torch.tensor([[50.0, 0.0], [0.0, -7.0]])
    torch.nn.init.ones_(distiller.adapter.bias)
    alone, both, none = (looking_at(make_scene(), points) for points in (inside, torch.cat([inside, outside]), outside))
    expected = distiller(alone.student, alone.teacher, alone.batch)["uvtr"]
    torch.testing.assert_close(distiller(both.student, both.teacher, both.batch)["uvtr"], expected)
    assert distiller(none.student, none.teacher, none.batch)["uvtr"] == 0


def test_same_maps_give_zero_and_places_get_no_gradient(distiller, make_scene):
    scene = make_scene()
    same = replace(scene.student, bev=scene.teacher.encoded.detach())
    assert distiller(same, scene.teacher, scene.batch)["uvtr"] == 0
    distiller(scene.student, scene.teacher, scene.batch)["uvtr"].backward()
    assert scene.student.predictions.codes.grad is None

"""FitNet."""

from dataclasses import replace

import pytest
import torch

from training.distill.fitnet import FitNetConfig


@pytest.fixture
def distiller(shapes):
    return FitNetConfig(tap="finest").build(shapes)


def loss_of(distiller, scene, student_bev, teacher_bev):
    student, teacher = replace(scene.student, bev=student_bev), replace(scene.teacher, finest=teacher_bev)
    return distiller(student, teacher, scene.batch)["fitnet"]


def test_by_hand(distiller, make_scene, channels):
    scene = make_scene()
    ones = torch.ones_like(scene.student.bev)
    assert loss_of(distiller, scene, ones, 3 * ones).item() == pytest.approx(4.0 * channels)


def test_matches_a_loop(distiller, make_scene, grid, channels):
    scene = make_scene()
    torch.nn.init.normal_(distiller.regressor.weight)
    torch.nn.init.normal_(distiller.regressor.bias)
    weight, bias = distiller.regressor.weight[..., 0, 0], distiller.regressor.bias
    expected = 0.0
    for item in range(2):
        for row in range(grid.rows):
            for col in range(grid.cols):
                mapped = weight @ scene.student.bev[item, :, row, col] + bias
                expected += (mapped - scene.teacher.finest[item, :, row, col]).square().sum().item()
    expected /= 2 * grid.rows * grid.cols
    assert distiller(scene.student, scene.teacher, scene.batch)["fitnet"].item() == pytest.approx(expected, rel=1e-4)


def test_same_maps_give_zero(distiller, make_scene):
    scene = make_scene()
    assert loss_of(distiller, scene, scene.teacher.finest.detach(), scene.teacher.finest) == 0


def test_grows_with_the_square_of_the_maps(distiller, make_scene):
    scene = make_scene()
    student, teacher = scene.student.bev, scene.teacher.finest
    expected = 9 * loss_of(distiller, scene, student, teacher)
    torch.testing.assert_close(loss_of(distiller, scene, 3 * student, 3 * teacher), expected)


def test_ground_truth_does_not_matter(distiller, make_scene, make_batch):
    scene = make_scene()
    empty = make_batch([torch.zeros(0, 9)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    expected = distiller(scene.student, scene.teacher, scene.batch)
    assert distiller(scene.student, scene.teacher, empty) == expected

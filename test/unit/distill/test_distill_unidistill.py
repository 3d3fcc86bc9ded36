"""UniDistill."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from bevdistill_ros.core.boxes import encode_boxes
from training.distill.unidistill import UniDistillConfig, key_points


@pytest.fixture
def distiller(shapes):
    torch.manual_seed(0)
    return UniDistillConfig(tap="encoded").build(shapes).eval()


def test_feature_by_hand(nine_cells, make_nine_cells, shapes_of):
    """Of two of the nine key points the maps differ."""
    distiller = UniDistillConfig(tap="encoded").build(shapes_of(nine_cells, 10))
    student, teacher = torch.zeros(2, 10, 3, 3)
    student[:2, 1, 1], teacher[:2, 0, 2] = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    scene = make_nine_cells(student, teacher)
    loss = distiller(scene.student, scene.teacher, scene.batch)["unidistill_feature"]
    assert loss.item() == pytest.approx((3 / 10 + 4 / 10) / 9, rel=1e-4)


def test_key_points_by_hand(grid):
    box = torch.tensor([[1.0, 2.0, 0.0, 4.0, 2.0, 1.5, torch.pi / 2, 0.0, 0.0]])  # heads along y
    points, counted = key_points([box, torch.zeros(0, 9)], grid)
    expected = {(x, y) for x in (0.0, 1.0, 2.0) for y in (0.0, 2.0, 4.0)}
    assert {(round(x, 4) + 0.0, round(y, 4) + 0.0) for x, y in points[0, 0].tolist()} == expected
    assert points[0, 0, 0].tolist() == [1.0, 2.0]
    assert counted[0].sum() == 9
    assert counted[1].sum() == 0


def test_key_points_outside_the_grid_do_not_count(grid):
    box = torch.tensor([[7.9, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0]])
    points, counted = key_points([box], grid)
    assert counted.sum() == 6
    assert torch.equal(counted.bool(), grid.contains(points))


def test_feature_and_relation_match_a_loop(distiller, make_scene, grid):
    scene = make_scene((3, 2))
    points, counted = key_points(scene.batch.boxes, grid)
    features, relations = [], []
    for item in range(2):
        feature, relation = [], []
        for box in range(len(scene.batch.boxes[item])):
            inside = [p for p, inside in zip(points[item, box], counted[item, box], strict=True) if inside]
            ours, theirs = (
                [grid.sample(bev[item : item + 1].detach(), p[None, None])[0, 0] for p in inside]
                for bev in (scene.student.bev, scene.teacher.encoded)
            )
            feature += [(s - t).abs().mean().item() for s, t in zip(ours, theirs, strict=True)]
            relation += [
                abs(
                    float(
                        torch.cosine_similarity(ours[i], ours[j], dim=0)
                        - torch.cosine_similarity(theirs[i], theirs[j], dim=0)
                    )
                )
                for i in range(len(inside))
                for j in range(len(inside))
            ]
        features.append(sum(feature) / len(feature))
        relations.append(sum(relation) / len(relation))
    losses = distiller(scene.student, scene.teacher, scene.batch)
    assert losses["unidistill_feature"].item() == pytest.approx(sum(features) / 2, rel=1e-4)
    assert losses["unidistill_relation"].item() == pytest.approx(sum(relations) / 2, rel=1e-4)


@torch.no_grad()
def test_response_and_teacher_head_match_a_loop(grid, shapes, make_scene):
    scene = make_scene((3, 2))
    torch.manual_seed(0)
    distiller = UniDistillConfig(sigma=1.1, tap="encoded").build(shapes).eval()
    ours, theirs = distiller.student_head(scene.student.bev), distiller.teacher_head(scene.teacher.encoded)
    response, teacher_head = 0.0, 0.0
    for item, boxes in enumerate(scene.batch.boxes):
        weights, responses, errors = [], [], []
        for row, col in itertools.product(range(grid.rows), range(grid.cols)):
            place = grid.cell_centres()[row, col]
            distances = [math.dist(place.tolist(), box[:2].tolist()) for box in boxes]
            truth = encode_boxes(boxes[distances.index(min(distances))])
            truth[:2] -= place
            weights.append(math.exp(-(min(distances) ** 2) / (2 * 1.1**2)))
            responses.append((ours[item, :, row, col] - theirs[item, :, row, col]).abs().sum().item())
            errors.append((theirs[item, :, row, col] - truth).abs().sum().item())
        response += sum(w * e for w, e in zip(weights, responses, strict=True)) / sum(weights) / 2
        teacher_head += sum(w * e for w, e in zip(weights, errors, strict=True)) / sum(weights) / 2
    losses = distiller(scene.student, scene.teacher, scene.batch)
    assert losses["unidistill_response"].item() == pytest.approx(response, rel=1e-4)
    assert losses["unidistill_teacher_head"].item() == pytest.approx(teacher_head, rel=1e-4)


def test_relation_ignores_scale_and_feature_does_not(distiller, make_scene):
    scene = make_scene()
    double = replace(scene.student, bev=2 * scene.teacher.encoded.detach())
    losses = distiller(double, scene.teacher, scene.batch)
    assert losses["unidistill_relation"].item() == pytest.approx(0.0, abs=1e-5)
    assert losses["unidistill_feature"] > 0.1


def test_same_maps_and_heads_give_zero(distiller, make_scene):
    scene = make_scene()
    distiller.student_head.load_state_dict(distiller.teacher_head.state_dict())
    same = replace(scene.student, bev=scene.teacher.encoded.detach())
    losses = distiller(same, scene.teacher, scene.batch)
    assert all(losses[f"unidistill_{term}"] == 0 for term in ("feature", "relation", "response"))


def test_ground_truth_reaches_only_the_head_of_the_teacher(distiller, make_scene):
    scene = make_scene()
    distiller(scene.student, scene.teacher, scene.batch)["unidistill_teacher_head"].backward()
    assert scene.student.bev.grad is None
    assert all(parameter.grad is None for parameter in distiller.student_head.parameters())
    assert all(parameter.grad is not None for parameter in distiller.teacher_head.parameters())


def test_without_objects_every_term_is_zero(distiller, make_scene):
    scene = make_scene((0, 0))
    assert all(value == 0 for value in distiller(scene.student, scene.teacher, scene.batch).values())


def test_unknown_velocity_leaves_every_term_finite(distiller, make_scene, make_batch):
    scene = make_scene((2,))
    boxes = scene.batch.boxes[0].clone()
    boxes[:, 7:] = float("nan")
    losses = distiller(scene.student, scene.teacher, make_batch([boxes], [scene.batch.labels[0]]))
    assert all(value.isfinite() for value in losses.values())


def test_sigma_must_be_positive():
    with pytest.raises(ValueError, match="sigma must be above 0"):
        UniDistillConfig(sigma=-1.0)

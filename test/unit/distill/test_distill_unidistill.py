"""UniDistill."""

from dataclasses import replace

import pytest
import torch

from training.distill.sampling import sample_bev
from training.distill.unidistill import UniDistill, UniDistillConfig, key_points


@pytest.fixture
def distiller(grid, channels):
    torch.manual_seed(0)
    return UniDistill(student_channels=channels, teacher_channels=channels, grid=grid, sigma=1.6, tap="encoded").eval()


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
                [sample_bev(bev[item : item + 1].detach(), p[None, None], grid)[0, 0] for p in inside]
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

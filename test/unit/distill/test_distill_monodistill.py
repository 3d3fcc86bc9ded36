"""MonoDistill."""

from dataclasses import replace

import pytest
import torch

from training.distill.dense_head import box_map, map_distance
from training.distill.foreground import foreground_mask
from training.distill.monodistill import MonoDistillConfig, affinity


@pytest.fixture
def distiller(shapes):
    torch.manual_seed(0)
    return MonoDistillConfig(affinity_cells=8, tap="encoded").build(shapes).eval()


def test_feature_by_hand(nine_cells, make_nine_cells, shapes_of):
    """A box of 2.2 m by 0.8 m holds the three cells of the middle row."""
    distiller = MonoDistillConfig(affinity_cells=3, tap="encoded").build(shapes_of(nine_cells, 10))
    student, teacher = torch.zeros(2, 10, 3, 3)
    student[:2, 1, 1], teacher[:2, 1, 2] = torch.tensor([[1.0, -2.0], [3.0, 1.0]])
    student[4, 0, 1] = 100.0  # beside the box
    scene = make_nine_cells(student, teacher, length=2.2, width=0.8)
    loss = distiller(scene.student, scene.teacher, scene.batch)["monodistill_feature"]
    assert loss.item() == pytest.approx((5 / 10 + 10 / 10) / 3, rel=1e-4)


def test_feature_term_is_the_mean_squared_error_inside_boxes(distiller, make_scene, grid):
    scene = make_scene((3, 2))
    inside = foreground_mask("box", scene.batch.boxes, grid)
    items = []
    for item in range(2):
        errors = [
            (scene.student.bev[item, :, row, col] - scene.teacher.encoded[item, :, row, col]).square().mean().item()
            for row, col in inside[item].nonzero().tolist()
        ]
        items.append(sum(errors) / len(errors))
    loss = distiller(scene.student, scene.teacher, scene.batch)["monodistill_feature"]
    assert loss.item() == pytest.approx(sum(items) / 2, rel=1e-4)


def test_affinity_by_hand():
    bev = torch.tensor([[3.0, 0.0, 6.0], [4.0, 2.0, 8.0]]).view(1, 2, 1, 3)
    expected = torch.tensor([[1.0, 0.8, 1.0], [0.8, 1.0, 0.8], [1.0, 0.8, 1.0]])
    torch.testing.assert_close(affinity(bev, cells=32)[0], expected)


def test_affinity_of_a_large_map_is_that_of_its_averages():
    bev = torch.randn(2, 5, 8, 12)
    pooled = bev.unflatten(2, (4, 2)).unflatten(4, (4, 3)).mean(dim=(3, 5))
    torch.testing.assert_close(affinity(bev, cells=4), affinity(pooled, cells=4))


def test_affinity_term_matches_a_loop(distiller, make_scene):
    scene = make_scene((1,))
    student, teacher = (
        torch.nn.functional.adaptive_avg_pool2d(bev.detach(), (8, 8))[0].flatten(1).T
        for bev in (scene.student.bev, scene.teacher.encoded)
    )
    total = 0.0
    for i in range(64):
        for j in range(64):
            ours, theirs = (torch.cosine_similarity(cells[i], cells[j], dim=0) for cells in (student, teacher))
            total += abs(float(ours - theirs))
    loss = distiller(scene.student, scene.teacher, scene.batch)["monodistill_affinity"]
    assert loss.item() == pytest.approx(total / 64**2, rel=1e-4)


def test_response_and_teacher_head_terms_are_masked_distances_of_box_maps(distiller, make_scene, grid):
    scene = make_scene((3, 2))
    losses = distiller(scene.student, scene.teacher, scene.batch)
    ours, theirs = distiller.student_head(scene.student.bev), distiller.teacher_head(scene.teacher.encoded)
    truth = box_map(scene.batch.boxes, grid)
    mask = foreground_mask("soft", scene.batch.boxes, grid, sigma=1.6)
    for name, first, second in (("response", ours, theirs), ("teacher_head", theirs, truth)):
        items = [
            ((first[item] - second[item]).abs().sum(dim=0) * mask[item]).sum() / mask[item].sum() for item in range(2)
        ]
        torch.testing.assert_close(losses[f"monodistill_{name}"], torch.stack(items).mean())


def test_who_learns_from_which_term(distiller, make_scene):
    """The student and its head learn from the teacher's answers, and only the teacher's head from the truth."""
    scene = make_scene()
    losses = distiller(scene.student, scene.teacher, scene.batch)
    inputs = {
        "bev": scene.student.bev,
        "student_head": next(distiller.student_head.parameters()),
        "teacher_head": next(distiller.teacher_head.parameters()),
    }

    def learners(term):
        gradients = torch.autograd.grad(
            losses[f"monodistill_{term}"], inputs.values(), retain_graph=True, allow_unused=True
        )
        return {name for name, gradient in zip(inputs, gradients, strict=True) if gradient is not None}

    assert learners("feature") == {"bev"}
    assert learners("affinity") == {"bev"}
    assert learners("response") == {"bev", "student_head"}
    assert learners("teacher_head") == {"teacher_head"}


def test_same_maps_and_heads_give_zero(distiller, make_scene):
    scene = make_scene()
    distiller.student_head.load_state_dict(distiller.teacher_head.state_dict())
    same = replace(scene.student, bev=scene.teacher.encoded.detach())
    losses = distiller(same, scene.teacher, scene.batch)
    assert all(losses[f"monodistill_{term}"] == 0 for term in ("feature", "affinity", "response"))


def test_without_objects_only_the_affinity_is_left(distiller, make_scene):
    scene = make_scene((0, 0))
    losses = distiller(scene.student, scene.teacher, scene.batch)
    assert losses.pop("monodistill_affinity") > 0
    assert all(value == 0 for value in losses.values())


def test_unknown_velocity_leaves_every_term_finite(distiller, make_scene, make_batch):
    scene = make_scene((2,))
    boxes = scene.batch.boxes[0].clone()
    boxes[:, 7:] = float("nan")
    losses = distiller(scene.student, scene.teacher, make_batch([boxes], [scene.batch.labels[0]]))
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in distiller.parameters())


def test_teacher_head_learns_where_boxes_are(make_scene, grid, shapes):
    """A head trained on the truth comes near it, so that what the student's head is taught becomes right."""
    scene = make_scene((3,))
    torch.manual_seed(0)
    distiller = MonoDistillConfig(affinity_cells=8, tap="encoded").build(shapes)
    truth = box_map(scene.batch.boxes, grid)
    perfect = replace(scene.teacher, encoded=truth[:, [0, 1, 4, 6, 7, 8]].detach())
    optimizer = torch.optim.Adam(distiller.teacher_head.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        loss = distiller(scene.student, perfect, scene.batch)["monodistill_teacher_head"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert map_distance(distiller.teacher_head(perfect.encoded), truth).isfinite().all()


@pytest.mark.parametrize("name", ["sigma", "affinity_cells"])
def test_sizes_must_be_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        MonoDistillConfig(**{name: 0})

"""Set2Set."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from bevdistill_ros.model.records import SetPrediction
from training.distill.queries import best_queries, class_divergence, code_distance
from training.distill.set2set import Set2SetConfig


@pytest.fixture
def distiller(shapes):
    return Set2SetConfig().build(shapes)


def prediction(scores, places):
    """A prediction of one layer and item: scores (Q, K) and x (Q,) [m]; the rest of the boxes is alike."""
    codes = torch.zeros(1, 1, len(places), 10)
    codes[0, 0, :, 0] = torch.tensor(places)
    logits = torch.logit(torch.tensor(scores))[None, None]
    return SetPrediction(logits=logits, codes=codes, features=torch.zeros(1, 1, len(places), 1))


def test_by_hand(distiller, make_scene):
    scene = make_scene((1,))
    teacher = replace(scene.teacher, predictions=prediction([[0.8, 0.1]], [5.0]))
    student = replace(scene.student, predictions=prediction([[0.5, 0.1], [0.5, 0.1]], [9.0, 4.0]))
    losses = distiller(student, teacher, scene.batch)
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert losses["set2set_class"].item() == pytest.approx(divergence, abs=1e-5)
    assert losses["set2set_box"].item() == pytest.approx(1.0)


def brute_force(student, teacher, layer, item, count):
    """Best one-to-one matching of the teacher's best queries over all permutations: pairs (student, teacher query)."""
    scores = teacher.logits[-1, item].sigmoid()
    best = sorted(range(len(scores)), key=lambda query: -scores[query].max())[:count]

    def cost(query, target):
        logits = student.logits[layer, item, query]
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores[target], reduction="sum")
        error = student.codes[layer, item, query] - teacher.codes[-1, item, target]
        return (cross_entropy + 0.25 * error[:8].abs().sum()).item()

    table = {(query, target): cost(query, target) for query in range(student.logits.shape[2]) for target in best}
    choices = itertools.permutations(range(student.logits.shape[2]), len(best))
    queries = min(choices, key=lambda choice: sum(table[pair] for pair in zip(choice, best, strict=True)))
    return list(zip(queries, best, strict=True))


def test_matches_a_loop_over_all_permutations(make_scene, shapes):
    scene = make_scene((2, 1), queries=5)
    student, teacher = scene.student.predictions, scene.teacher.predictions
    distiller = Set2SetConfig(num_queries=3).build(shapes)
    classes, boxes = 0.0, 0.0
    for layer, item in itertools.product(range(2), range(2)):
        for query, target in brute_force(student, teacher, layer, item, 3):
            p, q = teacher.logits[-1, item, target].sigmoid(), student.logits[layer, item, query].sigmoid()
            classes += (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum().item() / 6
            error = (student.codes[layer, item, query] - teacher.codes[-1, item, target]).abs()
            boxes += (error[:8].sum() + 0.2 * error[8:].sum()).item() / 6
    losses = distiller(scene.student, scene.teacher, scene.batch)
    assert losses["set2set_class"].item() == pytest.approx(classes, rel=1e-4)
    assert losses["set2set_box"].item() == pytest.approx(boxes, rel=1e-4)


def test_same_sets_give_zero(distiller, make_scene):
    scene = make_scene()
    last = scene.teacher.predictions.layer(-1)
    order = torch.tensor([3, 1, 0, 6, 2, 5, 4])
    shuffled = SetPrediction(
        logits=last.logits[:, :, order], codes=last.codes[:, :, order], features=last.features[:, :, order]
    )
    losses = distiller(replace(scene.student, predictions=shuffled), scene.teacher, scene.batch)
    assert losses["set2set_class"].item() == pytest.approx(0.0, abs=1e-5)
    assert losses["set2set_box"] == 0


def test_gradient_of_the_class_term_is_that_of_the_soft_cross_entropy():
    target = torch.randn(4, 10)
    logits = torch.randn(4, 10, requires_grad=True)
    (gradient,) = torch.autograd.grad(class_divergence(logits, target).sum(), logits)
    torch.testing.assert_close(gradient, logits.sigmoid() - target.sigmoid())


def test_class_term_is_finite_for_extreme_logits():
    logits = torch.tensor([[200.0, -200.0]])
    assert class_divergence(logits, -logits).isfinite().all()
    assert class_divergence(logits, logits).item() == pytest.approx(0.0)


def test_velocities_count_a_fifth():
    codes = torch.zeros(10)
    assert code_distance(codes, torch.ones(10), 0.2).item() == pytest.approx(8.4)


def test_keeps_no_more_queries_than_the_student_has_and_the_best_first(make_scene):
    scene = make_scene(queries=5)
    kept = best_queries(scene.teacher, scene.student.predictions, 300)
    scores = kept.logits.sigmoid().amax(dim=-1)
    assert kept.codes.shape == (2, 5, 10)
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    assert not kept.features.requires_grad


def test_other_classes_are_refused(distiller, make_scene):
    scene = make_scene((1,))
    student = replace(scene.student, predictions=prediction([[0.5, 0.1]], [9.0]))
    with pytest.raises(ValueError, match="same classes"):
        distiller(student, scene.teacher, scene.batch)


def test_num_queries_must_be_positive():
    with pytest.raises(ValueError, match="num_queries must be at least 1"):
        Set2SetConfig(num_queries=0)

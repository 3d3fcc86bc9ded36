"""The sparse part of BEVDistill."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from bevdistill_ros.core.boxes import decode_boxes, encode_boxes, iou_bev
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction
from training.distill.bevdistill_sparse import BevDistillSparseConfig, rate
from training.distill.mutual_information import info_nce
from training.distill.queries import TeacherQueries, best_queries, match


@pytest.fixture
def build(shapes):
    def make(**settings):
        torch.manual_seed(0)
        return BevDistillSparseConfig(**({"critic_width": 16, "box_term": True} | settings)).build(shapes)

    return make


def queries(boxes, labels, score=0.8):
    """The teacher's queries of one item with these boxes (K, 9), sure of their labels to `score`."""
    scores = torch.full((len(boxes), 10), 0.05)
    scores[torch.arange(len(boxes)), torch.tensor(labels)] = score
    return TeacherQueries(
        logits=scores.logit()[None], codes=encode_boxes(boxes)[None], features=torch.zeros(1, len(boxes), 1)
    )


def box_at(x, y=0.0):
    return torch.tensor([x, y, 1.0, 4.0, 2.0, 1.5, 0.0, 0.0, 0.0])


class TestQuality:
    def test_by_hand(self):
        """Shifted by half its length, a box shares a third of the union; a wrong class or no overlap has no quality."""
        targets = queries(torch.stack([box_at(2.0), box_at(0.0), box_at(30.0)]), [3, 5, 3])
        quality, objects = rate(targets, [box_at(0.0)[None]], [torch.tensor([3])], gamma=0.5)
        assert quality[0].tolist() == pytest.approx([math.sqrt(0.8 / 3), 0.0, 0.0], abs=1e-4)
        assert objects[0].tolist() == [0, 0, -1]

    @pytest.mark.parametrize(("gamma", "expected"), [(0.0, 1 / 3), (1.0, 0.8)])
    def test_gamma_is_the_share_of_the_score(self, gamma, expected):
        targets = queries(torch.stack([box_at(2.0), box_at(30.0)]), [3, 3])
        quality, _ = rate(targets, [box_at(0.0)[None]], [torch.tensor([3])], gamma=gamma)
        assert quality[0].tolist() == pytest.approx([expected, 0.0], abs=1e-4)

    def test_matches_a_loop(self, make_scene):
        scene = make_scene((3, 0, 2))
        targets = best_queries(scene.teacher, scene.student.predictions, 50)
        quality, objects = rate(targets, scene.batch.boxes, scene.batch.labels, gamma=0.3)
        for item, query in itertools.product(range(3), range(targets.codes.shape[1])):
            scores = targets.logits[item, query].sigmoid()
            box = decode_boxes(targets.codes[item, query])
            overlaps = [iou_bev(box[None], truth[None]).item() for truth in scene.batch.boxes[item]]
            labels = scene.batch.labels[item].tolist()
            fitting = [o for o, label in zip(overlaps, labels, strict=True) if label == scores.argmax()]
            overlap = max(fitting, default=0.0)
            expected = scores.max().item() ** 0.3 * overlap**0.7 if overlap > 0 else 0.0
            assert quality[item, query].item() == pytest.approx(expected, abs=1e-5)
            best = max(overlaps, default=0.0)
            assert objects[item, query] == (overlaps.index(best) if best > 0 else -1)
        assert (quality > 0.3).sum() >= 3

    def test_unknown_velocity_does_not_matter(self):
        truth = box_at(0.0)
        truth[7:] = float("nan")
        quality, _ = rate(queries(box_at(0.0)[None], [3]), [truth[None]], [torch.tensor([3])], gamma=0.5)
        assert quality.item() == pytest.approx(math.sqrt(0.8), abs=1e-4)


class TestInfoNce:
    def test_by_hand(self):
        vectors = torch.eye(2)
        bound = info_nce(vectors, vectors, torch.zeros(2, 2, dtype=torch.bool), temperature=0.5)
        assert bound.tolist() == pytest.approx([math.log(1 + math.exp(-2))] * 2)

    def test_matches_a_loop(self):
        generator = torch.Generator().manual_seed(0)
        teacher, student = (normalize(torch.randn(2, 5, 4, generator=generator), dim=-1) for _ in range(2))
        excluded = torch.rand(2, 5, 5, generator=generator) < 0.4
        bound = info_nce(teacher, student, excluded, temperature=0.07)
        for item, i in itertools.product(range(2), range(5)):
            exponentials = [
                math.exp(float(teacher[item, i] @ student[item, j]) / 0.07)
                for j in range(5)
                if i == j or not excluded[item, i, j]
            ]
            positive = math.exp(float(teacher[item, i] @ student[item, i]) / 0.07)
            assert bound[item, i].item() == pytest.approx(-math.log(positive / sum(exponentials)), rel=1e-4, abs=1e-5)

    def test_without_negatives_it_is_zero(self):
        vectors = torch.randn(3, 4)
        excluded = torch.ones(3, 3, dtype=torch.bool)
        torch.testing.assert_close(info_nce(vectors, vectors.flip(0), excluded, temperature=0.07), torch.zeros(3))


def best_pairs(student, targets, weight, layer, item):
    """The student's query of each teacher query, by trying all permutations; those of no weight choose last."""
    scores = targets.logits[item].sigmoid()

    def cost(query, target):
        logits = student.logits[layer, item, query]
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, scores[target], reduction="sum")
        error = student.codes[layer, item, query] - targets.codes[item, target]
        return (1.0 if weight[item, target] else 1e-8) * (cross_entropy + 0.25 * error[:8].abs().sum()).item()

    kept = range(len(scores))
    table = [[cost(query, target) for target in kept] for query in range(student.logits.shape[2])]
    choices = itertools.permutations(range(student.logits.shape[2]), len(scores))
    return min(choices, key=lambda choice: sum(table[query][target] for target, query in enumerate(choice)))


@pytest.mark.parametrize("uses_quality", [True, False])
@pytest.mark.parametrize("class_term", ["mi", "kl"])
@torch.no_grad()
def test_matches_a_loop_over_layers_items_and_queries(build, make_scene, class_term, uses_quality):
    scene = make_scene((2, 3), queries=6)
    distiller = build(num_queries=4, class_term=class_term, quality=uses_quality)
    losses = distiller(scene.student, scene.teacher, scene.batch)
    student = scene.student.predictions
    targets = best_queries(scene.teacher, student, 4)
    quality, objects = rate(targets, scene.batch.boxes, scene.batch.labels, gamma=0.5)
    weight = quality if uses_quality else torch.ones_like(quality)
    expected = {f"sparse_{class_term}": 0.0, "sparse_box": 0.0}
    for layer, item in itertools.product(range(2), range(2)):
        chosen = best_pairs(student, targets, weight, layer, item)
        total = max(weight[item].sum().item(), 1.0)
        for target, query in enumerate(chosen):
            share = weight[item, target].item() / total / 2
            error = (student.codes[layer, item, query] - targets.codes[item, target]).abs()
            expected["sparse_box"] += share * (error[:8].sum() + 0.2 * error[8:].sum()).item()
            if class_term == "kl":
                p, q = targets.logits[item, target].sigmoid(), student.logits[layer, item, query].sigmoid()
                value = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum().item()
            else:
                anchor = normalize(distiller.critic.teacher(targets.features[item, target]), dim=-1)
                scores = {}
                for other_target, other in enumerate(chosen):
                    same = objects[item, target] == objects[item, other_target] != -1
                    if other_target == target or not same:
                        image = normalize(distiller.critic.student(student.features[layer, item, other]), dim=-1)
                        scores[other_target] = math.exp(float(anchor @ image) / 0.07)
                value = -math.log(scores[target] / sum(scores.values()))
            expected[f"sparse_{class_term}"] += share * value
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-3)


def test_kl_by_hand(build, make_scene, make_batch):
    """The right box at the right place, of quality sqrt(0.8); the student agrees on all classes but the box's."""
    scene, box = make_scene((1,)), box_at(0.0)[None]
    teacher, student = (
        SetPrediction(logits=each.logits[None], codes=each.codes[None], features=each.features[None])
        for each in (queries(box, [3], score=0.8), queries(box, [3], score=0.5))
    )
    losses = build(class_term="kl", box_term=False)(
        replace(scene.student, predictions=student),
        replace(scene.teacher, predictions=teacher),
        make_batch([box], [torch.tensor([3])]),
    )
    divergence = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert losses.keys() == {"sparse_kl"}
    assert losses["sparse_kl"].item() == pytest.approx(math.sqrt(0.8) * divergence, abs=1e-4)


@pytest.mark.parametrize(("wanted", "query"), [(None, 1), (torch.tensor([[True, False]]), 0)])
def test_a_teacher_query_of_no_quality_takes_no_query_from_a_better_one(wanted, query):
    """Of the first target the first query is nearer (4 m against 6 m); the second target would have it (5 m)."""
    near = queries(torch.stack([box_at(0.0), box_at(10.0)]), [3, 3])
    student = SetPrediction(logits=near.logits[None], codes=near.codes[None], features=near.features[None])
    targets = queries(torch.stack([box_at(4.0), box_at(0.0, 5.0)]), [3, 3])
    index_LBK = match(student, targets, class_weight=1.0, box_weight=0.25, wanted=wanted)
    assert index_LBK.tolist() == [[[query, 1 - query]]]


def test_only_teacher_queries_of_some_quality_choose(build, make_scene, make_batch):
    """As above, with an object under the first teacher query alone: its error is 4 m."""
    near = queries(torch.stack([box_at(0.0), box_at(10.0)]), [3, 3])
    far = queries(torch.stack([box_at(4.0), box_at(0.0, 5.0)]), [3, 3])
    student, teacher = (
        SetPrediction(logits=each.logits[None], codes=each.codes[None], features=each.features[None])
        for each in (near, far)
    )
    scene = make_scene((1,))
    losses = build(class_term="none")(
        replace(scene.student, predictions=student),
        replace(scene.teacher, predictions=teacher),
        make_batch([box_at(4.0)[None]], [torch.tensor([3])]),
    )
    assert losses["sparse_box"].item() == pytest.approx(4 * math.sqrt(0.8), abs=1e-3)


def test_same_queries_give_zero(build, make_scene):
    scene = make_scene()
    student = replace(scene.student, predictions=scene.teacher.predictions.layer(-1))
    losses = build(class_term="kl", quality=False)(student, scene.teacher, scene.batch)
    assert losses["sparse_kl"].item() == pytest.approx(0.0, abs=1e-5)
    assert losses["sparse_box"] == 0


@pytest.mark.parametrize("positions", ["matched", "release"])
def test_without_objects_matched_terms_and_their_gradients_are_zero(build, make_scene, positions):
    scene = make_scene((0, 0))
    losses = build(positions=positions)(scene.student, scene.teacher, scene.batch)
    losses["sparse_box"].backward(retain_graph=True)
    assert losses["sparse_box"] == 0
    assert scene.student.predictions.codes.grad.abs().sum() == 0
    if positions == "matched":
        assert losses["sparse_mi"] == 0


def test_a_poor_frame_does_not_count_in_full(build, make_scene, make_batch):
    """One teacher box of quality q moves the loss by q times its error, not by its error."""
    truth, label = box_at(0.0)[None], torch.tensor([3])
    near = queries(torch.stack([box_at(2.0)]), [3])
    predictions = SetPrediction(logits=near.logits[None], codes=near.codes[None], features=near.features[None])
    moved = near.codes.clone()
    moved[..., 0] += 1.5
    scene = make_scene((1,))
    losses = build(class_term="none")(
        replace(scene.student, predictions=replace(predictions, codes=moved[None])),
        replace(scene.teacher, predictions=predictions),
        make_batch([truth], [label]),
    )
    assert losses.keys() == {"sparse_box"}
    assert losses["sparse_box"].item() == pytest.approx(1.5 * math.sqrt(0.8 / 3), abs=1e-4)


def two_on(boxes, labels):
    targets = queries(boxes, labels)
    features = torch.randn(1, 1, 2, 6, generator=torch.Generator().manual_seed(0))
    return SetPrediction(logits=targets.logits[None], codes=targets.codes[None], features=features)


@pytest.mark.parametrize(("labels", "same"), [([3, 3], True), ([3, 7], True)])
def test_teacher_boxes_on_one_object_are_no_negatives(build, make_scene, make_batch, labels, same):
    scene = make_scene((1,))
    predictions = two_on(torch.stack([box_at(0.0), box_at(0.4)]), labels)
    batch = make_batch([box_at(0.0)[None]], [torch.tensor([3])])
    loss = build(quality=False)(
        replace(scene.student, predictions=predictions), replace(scene.teacher, predictions=predictions), batch
    )["sparse_mi"]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)


def test_teacher_boxes_on_two_objects_or_on_none_are_negatives(build, make_scene, make_batch):
    scene = make_scene((1,))
    predictions = two_on(torch.stack([box_at(0.0), box_at(0.0, y=5.0)]), [3, 3])
    student, teacher = replace(scene.student, predictions=predictions), replace(scene.teacher, predictions=predictions)
    two = make_batch([torch.stack([box_at(0.0), box_at(0.0, y=5.0)])], [torch.tensor([3, 3])])
    none = make_batch([torch.zeros(0, 9)], [torch.zeros(0, dtype=torch.int64)])
    distiller = build(quality=False)
    assert distiller(student, teacher, two)["sparse_mi"] > 0.01
    assert distiller(student, teacher, none)["sparse_mi"] == distiller(student, teacher, two)["sparse_mi"]


def test_negatives_of_the_batch_are_added_to_those_of_the_item(build, make_scene):
    scene = make_scene((3, 3))
    item, batch = build(negatives="item", quality=False), build(negatives="batch", quality=False)
    arguments = scene.student, scene.teacher, scene.batch
    assert batch(*arguments)["sparse_mi"] > item(*arguments)["sparse_mi"]
    one = scene.item(0)
    arguments = one.student, one.teacher, one.batch
    torch.testing.assert_close(batch(*arguments)["sparse_mi"], item(*arguments)["sparse_mi"])


@torch.no_grad()
def test_negatives_of_the_batch_match_a_loop(build, make_scene):
    scene = make_scene((3, 3))
    distiller = build(negatives="batch")
    student = scene.student.predictions
    targets = best_queries(scene.teacher, student, 50)
    quality, objects = rate(targets, scene.batch.boxes, scene.batch.labels, gamma=0.5)
    assert all({-1, 0, 1, 2} == set(item.tolist()) for item in objects)
    index_LBK = match(student, targets, class_weight=1.0, box_weight=0.25, wanted=quality > 0)
    places = list(itertools.product(range(2), range(objects.shape[1])))
    expected = 0.0
    for layer, (item, target) in itertools.product(range(2), places):
        anchor = normalize(distiller.critic.teacher(targets.features[item, target]), dim=-1)
        scores = {}
        for other_item, other in places:
            same = item == other_item and objects[item, target] == objects[item, other] != -1
            if (item, target) == (other_item, other) or not same:
                feature = student.features[layer, other_item, index_LBK[layer, other_item, other]]
                image = normalize(distiller.critic.student(feature), dim=-1)
                scores[other_item, other] = math.exp(float(anchor @ image) / 0.07)
        share = quality[item, target].item() / max(quality[item].sum().item(), 1.0) / 2
        expected -= share * math.log(scores[item, target] / sum(scores.values()))
    loss = distiller(scene.student, scene.teacher, scene.batch)["sparse_mi"]
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_first_objects_of_two_items_are_different_objects(build, make_scene, make_batch):
    scene = make_scene((1, 1))
    targets = queries(box_at(0.0)[None], [3])
    features = torch.randn(1, 2, 1, 6, generator=torch.Generator().manual_seed(0))
    predictions = SetPrediction(
        logits=targets.logits.expand(1, 2, 1, 10), codes=targets.codes.expand(1, 2, 1, 10), features=features
    )
    batch = make_batch([box_at(0.0)[None]] * 2, [torch.tensor([3])] * 2)
    loss = build(negatives="batch")(
        replace(scene.student, predictions=predictions), replace(scene.teacher, predictions=predictions), batch
    )["sparse_mi"]
    assert loss > 0.01


def test_mutual_information_can_be_learned(build, make_scene):
    """Trained critics distinguish true pairs from false ones, which untrained ones cannot."""
    scene = make_scene()
    student = replace(scene.student, predictions=scene.teacher.predictions.layer(-1))
    distiller = build(quality=False)
    optimizer = torch.optim.Adam(distiller.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = distiller(student, scene.teacher, scene.batch)["sparse_mi"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


class TestRelease:
    @torch.no_grad()
    def test_matches_a_loop(self, build, make_scene, grid):
        scene = make_scene((2, 1), queries=5)
        distiller = build(positions="release")
        codes = scene.student.predictions.codes.detach().clone()
        codes[0, 1, 2, 0] = 40.0  # one centre outside
        student = replace(scene.student, predictions=replace(scene.student.predictions, codes=codes))
        expected = 0.0
        for layer, item in itertools.product(range(2), range(2)):
            centres = codes[layer, item, :, :2]
            inside = [query for query in range(5) if grid.contains(centres[query])]
            mapped = {}
            for query in inside:
                samples = [
                    grid.sample(bev[item : item + 1], centres[query][None, None])[0, 0]
                    for bev in (scene.teacher.encoded, scene.student.bev)
                ]
                mapped[query] = [
                    normalize(layers(sample), dim=-1)
                    for layers, sample in zip(
                        (distiller.critic.teacher, distiller.critic.student), samples, strict=True
                    )
                ]
            for query in inside:
                scores = {other: math.exp(float(mapped[query][0] @ mapped[other][1]) / 0.07) for other in inside}
                expected += -math.log(scores[query] / sum(scores.values())) / len(inside) / 2
        loss = distiller(student, scene.teacher, scene.batch)["sparse_mi"]
        assert loss.item() == pytest.approx(expected, rel=1e-4)

    def test_gradient_reaches_the_map_and_not_the_places(self, build, make_scene):
        scene = make_scene()
        distiller = build(positions="release")
        distiller(scene.student, scene.teacher, scene.batch)["sparse_mi"].backward()
        assert scene.student.bev.grad.abs().sum() > 0
        assert scene.student.predictions.codes.grad is None
        assert scene.teacher.encoded.grad is None

    def test_needs_the_student_on_the_teacher_grid(self, build, make_scene):
        scene = make_scene()
        with pytest.raises(ValueError, match="share a BEV grid"):
            build(positions="release")(scene.student, replace(scene.teacher, grid=BevGrid()), scene.batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_term": "none", "box_term": False}, "teaches nothing"),
        ({"class_term": "kl", "positions": "release"}, "belongs to class_term mi"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\]"),
        ({"num_queries": 0}, "num_queries must be above 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BevDistillSparseConfig(**settings)

"""The set loss."""

import math

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import encode_boxes
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction
from training.criterion import set_loss
from training.criterion.matcher import HungarianMatcher
from training.criterion.set_loss import SetCriterion, sigmoid_focal_loss

CAR_BOX = [5.0, -2.0, 1.0, 4.0, 2.0, 1.5, 0.3, 1.0, -1.0]


def prediction_of(logits: Tensor, codes: Tensor) -> SetPrediction:
    return SetPrediction(logits=logits, codes=codes, features=torch.zeros(*logits.shape[:3], 4))


def random_case(counts: tuple[int, ...] = (3, 2)) -> tuple[SetPrediction, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    shape = (2, len(counts), 6)
    predictions = prediction_of(torch.randn(*shape, 10), torch.randn(*shape, 10))
    boxes = [torch.tensor([CAR_BOX]).repeat(count, 1) + 0.3 * torch.rand(count, 9) for count in counts]
    labels = [torch.randint(10, (count,)) for count in counts]
    return predictions, boxes, labels


def test_focal_loss_by_hand() -> None:
    loss = sigmoid_focal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)])


def test_terms_by_hand() -> None:
    boxes = torch.tensor([CAR_BOX])
    codes = encode_boxes(boxes).repeat(2, 1, 1, 1)
    codes[0, ..., 0] += 0.5  # x
    codes[1, ..., 9] += 2.0  # vy, which counts a fifth
    logits = torch.zeros(2, 1, 1, 10)
    terms = SetCriterion(HungarianMatcher())(prediction_of(logits, codes), [boxes], [torch.tensor([0])])
    assert terms["box"].item() == pytest.approx(0.5 + 0.2 * 2.0, abs=1e-5)
    one_layer = 0.25 * math.log(2) * (0.25 + 9 * 0.75)
    assert terms["classification"].item() == pytest.approx(2 * one_layer, abs=1e-5)


def test_loss_equals_a_slow_loop() -> None:
    predictions, boxes, labels = random_case()
    matcher = HungarianMatcher()
    terms = SetCriterion(matcher)(predictions, boxes, labels)
    box_total, class_total = 0.0, 0.0
    for layer in range(2):
        for item in range(2):
            single = prediction_of(
                predictions.logits[layer, item][None, None], predictions.codes[layer, item][None, None]
            )
            pairs = matcher(single, [boxes[item]], [labels[item]])
            targets = torch.zeros(6, 10)
            for query, target in zip(pairs.query.tolist(), pairs.target.tolist(), strict=True):
                targets[query, labels[item][target]] = 1.0
                error = (single.codes[0, 0, query] - encode_boxes(boxes[item][target])).abs()
                box_total += (error[:8].sum() + 0.2 * error[8:].sum()).item()
            for query in range(6):
                for cls in range(10):
                    score = predictions.logits[layer, item, query, cls].sigmoid()
                    if targets[query, cls] == 1:
                        class_total -= (0.25 * (1 - score) ** 2 * score.log()).item()
                    else:
                        class_total -= (0.75 * score**2 * (1 - score).log()).item()
    assert terms["box"].item() == pytest.approx(box_total / 5, rel=1e-5)
    assert terms["classification"].item() == pytest.approx(class_total / 5, rel=1e-5)


def test_batch_of_two_is_two_batches_of_one() -> None:
    predictions, boxes, labels = random_case()
    criterion = SetCriterion(HungarianMatcher())
    both = criterion(predictions, boxes, labels)
    for name in both:
        total = 0.0
        for item, count in enumerate((3, 2)):
            part = slice(item, item + 1)
            alone = prediction_of(predictions.logits[:, part], predictions.codes[:, part])
            total += count * criterion(alone, boxes[part], labels[part])[name].item()
        assert both[name].item() == pytest.approx(total / 5, rel=1e-5)


def test_order_of_boxes_does_not_matter() -> None:
    predictions, boxes, labels = random_case()
    criterion = SetCriterion(HungarianMatcher())
    expected = criterion(predictions, boxes, labels)
    turned = criterion(predictions, [box.flip(0) for box in boxes], [label.flip(0) for label in labels])
    for name in expected:
        assert turned[name].item() == pytest.approx(expected[name].item(), rel=1e-6)


def test_no_ground_truth_teaches_only_background() -> None:
    predictions, _, _ = random_case()
    predictions.logits.requires_grad_()
    empty = [torch.zeros(0, 9)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2
    terms = SetCriterion(HungarianMatcher())(predictions, *empty)
    assert terms["box"].item() == 0.0
    assert terms["classification"].item() > 0.0
    (terms["classification"] + terms["box"]).backward()
    assert (predictions.logits.grad > 0).all()


def test_boxes_outside_the_grid_are_no_ground_truth() -> None:
    predictions, boxes, labels = random_case()
    criterion = SetCriterion(HungarianMatcher(), grid=BevGrid())
    expected = criterion(predictions, boxes, labels)
    far, high = boxes[0][:1].clone(), boxes[0][:1].clone()
    far[:, 0], high[:, 2] = 51.2, 7.0
    more = criterion(predictions, [torch.cat([far, boxes[0], high]), boxes[1]], [labels[0][[0, 0, 1, 2, 0]], labels[1]])
    assert {name: term.item() for name, term in more.items()} == {name: term.item() for name, term in expected.items()}


def test_unknown_velocity_has_no_loss_and_no_gradient() -> None:
    predictions, boxes, labels = random_case(counts=(1,))
    predictions.codes.requires_grad_()
    boxes[0][:, 7:] = math.nan
    terms = SetCriterion(HungarianMatcher())(predictions, boxes, labels)
    terms["box"].backward()
    gradient = predictions.codes.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert (gradient[..., 8:] == 0).all()
    assert (gradient[..., :8] != 0).any(dim=2).all()


def test_inputs_are_not_changed() -> None:
    predictions, boxes, labels = random_case()
    before = [tensor.clone() for tensor in (predictions.logits, predictions.codes, *boxes, *labels)]
    SetCriterion(HungarianMatcher(), grid=BevGrid())(predictions, boxes, labels)
    after = (predictions.logits, predictions.codes, *boxes, *labels)
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


def test_half_precision_predictions_give_a_finite_float32_loss() -> None:
    predictions, boxes, labels = random_case()
    half = prediction_of(predictions.logits.bfloat16(), predictions.codes.bfloat16())
    terms = SetCriterion(HungarianMatcher())(half, boxes, labels)
    assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())


def test_normaliser_is_the_mean_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second rank held 7 boxes beside the 5 here."""
    predictions, boxes, labels = random_case()
    criterion = SetCriterion(HungarianMatcher())
    alone = criterion(predictions, boxes, labels)
    monkeypatch.setattr(set_loss, "is_initialized", lambda: True)
    monkeypatch.setattr(set_loss, "get_world_size", lambda: 2)
    monkeypatch.setattr(set_loss, "all_reduce", lambda count: count.add_(7.0))
    together = criterion(predictions, boxes, labels)
    for name in alone:
        assert together[name].item() == pytest.approx(alone[name].item() * 5 / 6, rel=1e-6)


def test_a_box_of_half_the_weight_counts_half_and_the_rest_is_punished_in_full() -> None:
    boxes = torch.tensor([CAR_BOX])
    codes = encode_boxes(boxes).repeat(1, 1, 2, 1)
    codes[0, 0, 0, 0] += 0.5  # of the query that is matched, by the box
    codes[0, 0, 1, 0] += 20.0
    case = (prediction_of(torch.zeros(1, 1, 2, 10), codes), [boxes], [torch.tensor([0])])
    terms = SetCriterion(HungarianMatcher())(*case, weights=[torch.tensor([0.5])])
    assert terms["box"].item() == pytest.approx(0.5 * 0.5, abs=1e-5)
    matched, other = 0.25 * math.log(2) * (0.25 + 9 * 0.75), 0.25 * math.log(2) * 10 * 0.75
    assert terms["classification"].item() == pytest.approx(0.5 * matched + other, abs=1e-5)


def test_weights_follow_their_boxes_on_the_grid() -> None:
    grid = BevGrid(x_min=0.0, x_max=16.0, y_min=-6.0, y_max=6.0, rows=12, cols=16)
    predictions, boxes, labels = random_case()
    boxes[0][1, 0] = 100.0  # off the grid
    weights = [torch.tensor([0.2, 0.9, 0.7]), torch.tensor([0.4, 1.0])]
    criterion = SetCriterion(HungarianMatcher(), grid=grid)
    kept = [[0, 2], [0, 1]]
    terms = criterion(predictions, boxes, labels, weights=weights)
    expected = criterion(
        predictions,
        *([item[rows] for item, rows in zip(values, kept, strict=True)] for values in (boxes, labels)),
        weights=[item[rows] for item, rows in zip(weights, kept, strict=True)],
    )
    assert {name: value.item() for name, value in terms.items()} == {n: v.item() for n, v in expected.items()}


def test_weights_of_one_and_labelled_items_change_no_bit() -> None:
    predictions, boxes, labels = random_case()
    plain = SetCriterion(HungarianMatcher())(predictions, boxes, labels)
    weights = [torch.ones(3), torch.ones(2)]
    known = SetCriterion(HungarianMatcher())(
        predictions, boxes, labels, weights=weights, annotated=torch.tensor([True, True])
    )
    assert {name: value.item() for name, value in plain.items()} == {n: v.item() for n, v in known.items()}


def test_an_unlabelled_item_teaches_nothing() -> None:
    predictions, boxes, labels = random_case((3, 0))
    logits, codes = (value.clone().requires_grad_() for value in (predictions.logits, predictions.codes))
    annotated = torch.tensor([True, False])
    terms = SetCriterion(HungarianMatcher())(prediction_of(logits, codes), boxes, labels, annotated=annotated)
    alone = SetCriterion(HungarianMatcher())(prediction_of(logits[:, :1], codes[:, :1]), boxes[:1], labels[:1])
    assert {n: v.item() for n, v in terms.items()} == {n: pytest.approx(v.item()) for n, v in alone.items()}
    sum(terms.values()).backward()
    for values in (logits, codes):
        assert values.grad[:, 0].abs().sum() > 0
        assert values.grad[:, 1].abs().sum() == 0

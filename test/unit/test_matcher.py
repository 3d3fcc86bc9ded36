"""The assignment of queries to targets."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import encode_boxes
from bevdistill_ros.model.records import SetPrediction
from training.criterion.matcher import HungarianMatcher, assign, box_cost, focal_cost


def random_boxes(count: int) -> Tensor:
    boxes = torch.randn(count, 9)
    boxes[:, 3:6] = boxes[:, 3:6].exp()
    return boxes


def random_case(num_layers: int = 2, counts: tuple[int, ...] = (3, 1), queries: int = 5) -> tuple:
    torch.manual_seed(0)
    shape = (num_layers, len(counts), queries)
    codes = encode_boxes(random_boxes(math.prod(shape))).reshape(*shape, 10)
    predictions = SetPrediction(logits=torch.randn(*shape, 10), codes=codes, features=torch.zeros(*shape, 4))
    boxes = [random_boxes(count) for count in counts]
    labels = [torch.randint(10, (count,)) for count in counts]
    return predictions, boxes, labels


def item_of(predictions: SetPrediction, item: int) -> SetPrediction:
    chosen = slice(item, item + 1)
    return SetPrediction(
        logits=predictions.logits[:, chosen],
        codes=predictions.codes[:, chosen],
        features=predictions.features[:, chosen],
    )


def test_focal_cost_by_hand() -> None:
    cost = focal_cost(torch.tensor([[0.0, math.log(3.0)]]), torch.tensor([0, 1]))
    at_half = 0.25 * 0.5**2 * math.log(2) - 0.75 * 0.5**2 * math.log(2)
    at_three_quarters = -0.25 * 0.25**2 * math.log(0.75) + 0.75 * 0.75**2 * math.log(0.25)
    assert cost.tolist() == [[pytest.approx(at_half, abs=1e-6), pytest.approx(at_three_quarters, abs=1e-6)]]


def test_box_cost_is_l1_of_the_code_without_velocity() -> None:
    predicted = torch.arange(10.0)[None]
    target = predicted.clone()
    target[0, 0] += 2.0
    target[0, 7] -= 1.0
    target[0, 8:] += 100.0
    assert box_cost(predicted, target).item() == pytest.approx(3.0)


def test_cost_equals_a_slow_loop() -> None:
    predictions, boxes, labels = random_case()
    cost = HungarianMatcher(class_weight=2.0, box_weight=0.25).cost(predictions, boxes, labels)
    assert tuple(cost.shape) == (2, 2, 5, 3)
    for layer, item, query in itertools.product(range(2), range(2), range(5)):
        for target, (box, label) in enumerate(zip(boxes[item], labels[item], strict=True)):
            score = predictions.logits[layer, item, query, label].sigmoid()
            positive = -0.25 * (1 - score) ** 2 * score.log()
            negative = -0.75 * score**2 * (1 - score).log()
            distance = (predictions.codes[layer, item, query, :8] - encode_boxes(box)[:8]).abs().sum()
            expected = 2.0 * (positive - negative) + 0.25 * distance
            assert cost[layer, item, query, target].item() == pytest.approx(expected.item(), abs=1e-4)


def test_assignment_is_the_best_of_all() -> None:
    torch.manual_seed(1)
    cost = torch.randn(2, 3, 5, 3)
    counts = (3, 2, 0)
    found = assign(cost, counts)
    assert len(found) == 2 * (3 + 2)
    for layer, item in itertools.product(range(2), range(3)):
        chosen = (found.layer == layer) & (found.item == item)
        total = cost[layer, item, found.query[chosen], found.target[chosen]].sum().item()
        best = min(
            sum(cost[layer, item, query, target].item() for target, query in enumerate(choice))
            for choice in itertools.permutations(range(5), counts[item])
        )
        assert total == pytest.approx(best, abs=1e-5)
        assert sorted(found.target[chosen].tolist()) == list(range(counts[item]))
        assert len(set(found.query[chosen].tolist())) == counts[item]


def test_more_targets_than_queries_match_every_query() -> None:
    found = assign(torch.rand(1, 1, 2, 6), [6])
    assert sorted(found.query.tolist()) == [0, 1]


def test_exact_predictions_match_their_own_boxes() -> None:
    predictions, boxes, labels = random_case(num_layers=1, counts=(4,))
    predictions.codes[0, 0, [4, 2, 0, 1]] = encode_boxes(boxes[0])
    found = HungarianMatcher(class_weight=0.01, box_weight=1.0)(predictions, boxes, labels)
    assert found.query[found.target.argsort()].tolist() == [4, 2, 0, 1]


def test_batch_of_two_is_two_batches_of_one() -> None:
    predictions, boxes, labels = random_case()
    matcher = HungarianMatcher()
    both = matcher(predictions, boxes, labels)
    for item in range(2):
        alone = matcher(item_of(predictions, item), boxes[item : item + 1], labels[item : item + 1])
        chosen = both.item == item
        assert torch.equal(both.query[chosen], alone.query)
        assert torch.equal(both.target[chosen], alone.target)
        assert torch.equal(both.layer[chosen], alone.layer)


def test_unknown_velocity_does_not_matter() -> None:
    predictions, boxes, labels = random_case()
    matcher = HungarianMatcher()
    expected = matcher(predictions, boxes, labels).query
    for box in boxes:
        box[:, 7:] = math.nan
    assert torch.equal(matcher(predictions, boxes, labels).query, expected)


def test_no_ground_truth_at_all() -> None:
    predictions, _, _ = random_case()
    empty = [torch.zeros(0, 9)] * 2
    found = HungarianMatcher()(predictions, empty, [torch.zeros(0, dtype=torch.int64)] * 2)
    assert len(found) == 0
    assert predictions.logits[found.layer, found.item, found.query].shape == (0, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_diverged_predictions_are_named(value: float) -> None:
    predictions, boxes, labels = random_case()
    predictions.codes[1, 0] = value
    with pytest.raises(FloatingPointError, match="layer 1, batch item 0"):
        HungarianMatcher()(predictions, boxes, labels)


def test_weights_are_checked() -> None:
    with pytest.raises(ValueError, match="box_weight is -1"):
        HungarianMatcher(box_weight=-1.0)
    with pytest.raises(ValueError, match="not both zero"):
        HungarianMatcher(class_weight=0.0, box_weight=0.0)

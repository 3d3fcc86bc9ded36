import math

import pytest
import torch
from torch import Tensor

from training.data.targets import check_targets


def targets() -> tuple[list[Tensor], list[Tensor]]:
    """Two items, of 3 and of 2 boxes; the velocities of one are unknown."""
    boxes = [torch.rand(3, 9) + 0.5, torch.rand(2, 9) + 0.5]
    boxes[0][1, 7:] = math.nan
    return boxes, [torch.tensor([0, 3, 9]), torch.tensor([1, 2])]


def test_sound_targets_and_items_without_boxes_pass() -> None:
    boxes, labels = targets()
    check_targets(boxes, labels)
    check_targets([boxes[0][:0]], [labels[0][:0]])


@pytest.mark.parametrize(("column", "value"), [(0, math.nan), (3, 0.0), (5, -1.0), (6, math.inf)])
def test_broken_boxes_are_refused(column: int, value: float) -> None:
    boxes, labels = targets()
    boxes[1][0, column] = value
    with pytest.raises(ValueError, match="finite boxes of positive size"):
        check_targets(boxes, labels)


def test_unknown_labels_and_unpaired_boxes_are_refused() -> None:
    boxes, labels = targets()
    with pytest.raises(ValueError, match=r"labels in 0\.\.\.9"):
        check_targets(boxes, [labels[0] + 1, labels[1]])
    with pytest.raises(ValueError, match=r"number \[3, 2\] and \[2, 3\]"):
        check_targets(boxes, labels[::-1])
    with pytest.raises(ValueError, match="the batch is empty"):
        check_targets([], [])

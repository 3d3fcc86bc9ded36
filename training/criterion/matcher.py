"""One-to-one assignment of queries to targets: DETR (arXiv 2005.12872), with Deformable DETR's focal cost.

cost(q, t) = w_class * focal(q, class of t) + w_box * ||code_q - code_t||_1

As in DETR3D the L1 distance runs over the first eight code numbers, in metres: velocity takes no part in the matching.
The pieces (`focal_cost`, `box_cost`, `assign`) also serve matchings between a teacher's and a student's queries.

Shape legend: L decoder layers, B batch, Q queries, K classes, T targets of the fullest item (others padded), N pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence

from bevdistill_ros.core.boxes import BOX_SIZE, encode_boxes
from bevdistill_ros.model.records import SetPrediction

NUM_MATCHED_CODES = 8  # leading code numbers that the box cost compares; the rest is velocity


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Matched pairs of all layers and items, by layer, then item, then target.

    Indexing predictions with `[layer, item, query]` lines them up with the targets `[item, target]`.
    """

    layer: Tensor  # (N,) int64 in 0...L-1
    item: Tensor  # (N,) int64 in 0...B-1
    query: Tensor  # (N,) int64 in 0...Q-1
    target: Tensor  # (N,) int64, counted within the item

    def __len__(self) -> int:
        return len(self.layer)


def focal_cost(logits: Tensor, labels: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Change of the focal loss if a query were assigned a label.

    Args:
        logits: (..., Q, K).
        labels: (..., T) int64 in 0...K-1.
        alpha: Weight of the positive term; the negative one has 1 - alpha.
        gamma: Focusing exponent.

    Returns:
        (..., Q, T) float32; the lower, the better the fit.
    """
    logits = logits.float()
    score = logits.sigmoid()
    positive = -alpha * (1 - score).pow(gamma) * logsigmoid(logits)
    negative = -(1 - alpha) * score.pow(gamma) * logsigmoid(-logits)
    index = labels.unsqueeze(-2).expand(*logits.shape[:-1], labels.shape[-1])
    return (positive - negative).gather(-1, index)


def box_cost(codes: Tensor, target_codes: Tensor, *, num_codes: int = NUM_MATCHED_CODES) -> Tensor:
    """L1 distance of codes (..., Q, 10) to targets (..., T, 10) over the first `num_codes`: (..., Q, T) float32."""
    return torch.cdist(codes[..., :num_codes].float(), target_codes[..., :num_codes].float(), p=1.0)


@torch.no_grad()
def assign(cost: Tensor, counts: Sequence[int]) -> Assignment:
    """Solve the assignment of least total cost for each layer and item, after one transfer to the CPU.

    Args:
        cost: (L, B, Q, T).
        counts: True number of targets of each item, B entries; columns beyond are padding.

    Returns:
        min(Q, count) pairs for each layer and item, on the device of `cost`.

    Raises:
        FloatingPointError: A cost is not finite.
    """
    rows = cost.transpose(-1, -2).double().cpu().numpy()
    pairs: list[Tensor] = []
    for layer, costs_BTQ in enumerate(rows):
        for item, count in enumerate(counts):
            try:
                target, query = linear_sum_assignment(costs_BTQ[item, :count])
            except ValueError as error:
                raise FloatingPointError(
                    f"matching cost of decoder layer {layer}, batch item {item} is not finite; "
                    "the predictions have diverged: lower the learning rate or check the input"
                ) from error
            pair = torch.tensor([[layer], [item]]).expand(2, len(target))
            pairs.append(torch.cat([pair, torch.from_numpy(query)[None], torch.from_numpy(target)[None]]))
    table = torch.cat(pairs, dim=1) if pairs else torch.zeros(4, 0, dtype=torch.int64)
    if cost.device.type == "cuda":  # from pinned memory the copy does not wait
        table = table.pin_memory()
    layer_N, item_N, query_N, target_N = table.to(cost.device, non_blocking=True).unbind()
    return Assignment(layer=layer_N, item=item_N, query=query_N, target=target_N)


class HungarianMatcher:
    """Assigns ground truth to the queries of every decoder layer.

    Args:
        class_weight: Weight of the focal cost.
        box_weight: Weight of the L1 cost [1/m].
        alpha: Focal weight of positives.
        gamma: Focal exponent.
    """

    def __init__(
        self, *, class_weight: float = 2.0, box_weight: float = 0.25, alpha: float = 0.25, gamma: float = 2.0
    ) -> None:
        if class_weight < 0 or box_weight < 0 or class_weight + box_weight == 0:
            raise ValueError(
                f"matcher weights must not be negative and not both zero, but class_weight is {class_weight} "
                f"and box_weight is {box_weight}"
            )
        self.class_weight = class_weight
        self.box_weight = box_weight
        self.alpha = alpha
        self.gamma = gamma

    @torch.no_grad()
    def __call__(self, predictions: SetPrediction, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Assignment:
        """Match boxes B x (M_b, 9) with labels B x (M_b,) to the queries of every layer.

        Raises:
            FloatingPointError: A prediction is not finite.
        """
        counts = [len(item) for item in labels]
        return assign(self.cost(predictions, boxes, labels), counts)

    @torch.no_grad()
    def cost(self, predictions: SetPrediction, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Weighted cost (L, B, Q, T) float32; columns beyond an item's own number of boxes are padding."""
        num_layers = len(predictions.logits)
        codes_BTD = encode_boxes(_pad(boxes, fill=1.0).reshape(len(boxes), -1, BOX_SIZE))
        codes_LBTD = codes_BTD.expand(num_layers, *codes_BTD.shape)
        labels_BT = _pad(labels, fill=0)
        labels_LBT = labels_BT.expand(num_layers, *labels_BT.shape)
        classes = focal_cost(predictions.logits, labels_LBT, alpha=self.alpha, gamma=self.gamma)
        return self.class_weight * classes + self.box_weight * box_cost(predictions.codes, codes_LBTD)


def _pad(tensors: Sequence[Tensor], fill: float) -> Tensor:
    return pad_sequence(list(tensors), batch_first=True, padding_value=fill)

"""The set loss of DETR3D (arXiv 2110.06922): focal classification and L1 on the box code, on every decoder layer.

Deviation: a box of unknown velocity (NaN) still teaches its other eight numbers; the original drops it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce, get_world_size, is_available, is_initialized
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.nn.utils.rnn import pad_sequence

from bevdistill_ros.core.boxes import CODE_SIZE, encode_boxes
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.model.records import SetPrediction
from training.criterion.matcher import Assignment, HungarianMatcher

_VELOCITY = slice(7, 9)  # in a box
IGNORED_REACH = 2.0  # [m]
_CODE_VELOCITY = slice(CODE_SIZE - 2, CODE_SIZE)  # in a code


class SetCriterion(nn.Module):
    """Loss of a predicted set against ground truth.

    Args:
        matcher: Assigns boxes to queries.
        grid: Boxes whose centre lies outside its extent are dropped, as no query can reach them; None keeps all.
        num_classes: Number of classes K.
        velocity_weight: Weight of the two velocity numbers against the other eight of the code.
        alpha: Focal weight of positives.
        gamma: Focal exponent.
    """

    code_weights: Tensor

    def __init__(
        self,
        matcher: HungarianMatcher,
        *,
        grid: BevGrid | None = None,
        num_classes: int = NUM_CLASSES,
        velocity_weight: float = 0.2,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.grid = grid
        self.num_classes = num_classes
        self.alpha = alpha
        self.gamma = gamma
        weights = torch.ones(CODE_SIZE)
        weights[_CODE_VELOCITY] = velocity_weight
        self.register_buffer("code_weights", weights, persistent=False)

    def forward(
        self,
        predictions: SetPrediction,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignored: Sequence[Tensor] = (),
        *,
        weights: Sequence[Tensor] | None = None,
        annotated: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms.

        Args:
            predictions: Of all layers L and items B.
            boxes: B x (M_b, 9) float32 in the ego frame, sound (data.targets); NaN velocity means unknown.
            labels: B x (M_b,) int64.
            ignored: B x (I_b, 9), or empty: boxes that are no targets. An unmatched query that predicts its centre on
                one, see `near_ignored`, is not punished for it.
            weights: B x (M_b,) in [0, 1]: factor of both terms of the query that a box is matched to; None: 1.
            annotated: (B,) bool, False for an item without labels, whose queries are not punished for what they
                predict; None: all are labelled.

        Returns:
            {"classification", "box"}: scalars, summed over layers and divided by the number of boxes in the batch
            (the mean over the ranks of a distributed run, and at least 1).

        Raises:
            FloatingPointError: A prediction is not finite.
        """
        weights = [item.new_ones(len(item)) for item in boxes] if weights is None else weights
        boxes, labels, weights = inside_grid(self.grid, boxes, labels, weights)
        assignment = self.matcher(predictions, boxes, labels)
        num_boxes = _mean_over_ranks(sum(len(item) for item in labels), predictions.logits)
        factor_N = _gather(weights, assignment)
        free_LBQ = _unpunished(predictions, assignment, ignored, annotated)
        return {
            "classification": self._classification(predictions, labels, assignment, factor_N, free_LBQ) / num_boxes,
            "box": self._box(predictions.codes, boxes, assignment, factor_N) / num_boxes,
        }

    def _classification(
        self,
        predictions: SetPrediction,
        labels: Sequence[Tensor],
        assignment: Assignment,
        factor_N: Tensor,
        free_LBQ: Tensor | None,
    ) -> Tensor:
        logits = predictions.logits
        targets = torch.zeros_like(logits, dtype=torch.float32)
        matched = _gather(labels, assignment)
        targets[assignment.layer, assignment.item, assignment.query] = one_hot(matched, self.num_classes).float()
        losses = sigmoid_focal_loss(logits.float(), targets, alpha=self.alpha, gamma=self.gamma)
        if free_LBQ is not None:
            losses = losses.masked_fill(free_LBQ.unsqueeze(-1), 0.0)
        factor_LBQ = torch.ones_like(losses[..., 0])
        factor_LBQ[assignment.layer, assignment.item, assignment.query] = factor_N
        return (factor_LBQ.unsqueeze(-1) * losses).sum()

    def _box(self, codes: Tensor, boxes: Sequence[Tensor], assignment: Assignment, factor_N: Tensor) -> Tensor:
        predicted = codes[assignment.layer, assignment.item, assignment.query].float()
        target = encode_boxes(_gather(boxes, assignment).float())
        known = target.isfinite()
        # The unknown numbers are replaced before the subtraction: NaN * 0 would be NaN in the gradient too.
        error = (predicted - torch.where(known, target, predicted.detach())).abs()
        return (factor_N.unsqueeze(-1) * error * self.code_weights).sum()


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (arXiv 1708.02002) of each logit against targets of 0 or 1, of the same shape, not reduced."""
    score = logits.sigmoid()
    wrong = targets * (1 - score) + (1 - targets) * score
    weight = targets * alpha + (1 - targets) * (1 - alpha)
    return weight * wrong.pow(gamma) * binary_cross_entropy_with_logits(logits, targets, reduction="none")


def _unpunished(
    predictions: SetPrediction, assignment: Assignment, ignored: Sequence[Tensor], annotated: Tensor | None
) -> Tensor | None:
    """Queries (L, B, Q) that have no classification loss: on ignored boxes, or of unlabelled items; None for none."""
    has_ignored = any(len(item) for item in ignored)
    if not has_ignored and annotated is None:
        return None
    free = torch.zeros(predictions.codes.shape[:3], dtype=torch.bool, device=predictions.codes.device)
    if has_ignored:
        free |= near_ignored(predictions.codes, ignored)
    if annotated is not None:
        free |= ~annotated[None, :, None]
    free[assignment.layer, assignment.item, assignment.query] = False
    return free


@torch.no_grad()
def near_ignored(codes: Tensor, ignored: Sequence[Tensor]) -> Tensor:
    """Which queries predict their centre on an ignored box: nearer than half its diagonal from above, or 2 m.

    Args:
        codes: (L, B, Q, 10) core.boxes regression codes, x and y [m] first.
        ignored: B x (I_b, 9) [m].

    Returns:
        (L, B, Q) bool.
    """
    near = torch.zeros(codes.shape[:3], dtype=torch.bool, device=codes.device)
    for item, boxes in enumerate(ignored):
        reach = (boxes[:, 3:5].norm(dim=-1) / 2).clamp(min=IGNORED_REACH)
        near[:, item] = (torch.cdist(codes[:, item, :, :2].float(), boxes[:, :2].float()) < reach).any(dim=-1)
    return near


def inside_grid(grid: BevGrid | None, boxes: Sequence[Tensor], *others: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
    """The boxes B x (M_b, 9) whose centre lies in the extent of the grid, and what else each of them has, as its label;
    None keeps all."""
    given = (boxes, *others)
    inside = None if grid is None else grid.contains(torch.cat(list(boxes))[:, :3])
    if inside is None or bool(inside.all()):  # asked once; a mask an item would have to be read from a GPU each time
        return tuple(map(list, given))
    masks = inside.split([len(item) for item in boxes])
    return tuple([item[keep] for item, keep in zip(values, masks, strict=True)] for values in given)


def _gather(targets: Sequence[Tensor], assignment: Assignment) -> Tensor:
    """Targets of the pairs, in their order: (N, ...)."""
    return pad_sequence(list(targets), batch_first=True)[assignment.item, assignment.target]


def _mean_over_ranks(count: int, like: Tensor) -> Tensor:
    """Number of boxes, averaged over the ranks of a distributed run, at least 1: float32 scalar."""
    mean = torch.full((), float(count), device=like.device)
    if is_available() and is_initialized():
        all_reduce(mean)
        mean = mean / get_world_size()
    return mean.clamp(min=1.0)

"""The set loss of DETR3D (arXiv 2110.06922): focal classification and L1 on the box code, on every decoder layer.

Deviation: a box of unknown velocity (NaN) still teaches its other eight numbers; the original drops it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce, get_world_size, is_available, is_initialized
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

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
            boxes: B x (M_b, 9) float32 in the ego frame, core.boxes; NaN velocity means unknown.
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
            ValueError: Ground truth is not finite, has no size or has an unknown label.
            FloatingPointError: A prediction is not finite.
        """
        check_targets(boxes, labels, self.num_classes)
        weights = [item.new_ones(len(item)) for item in boxes] if weights is None else weights
        on_grid = inside_grid(boxes, weights, self.grid)[1]
        boxes, labels = inside_grid(boxes, labels, self.grid)
        assignment = self.matcher(predictions, boxes, labels)
        num_boxes = _mean_over_ranks(sum(len(item) for item in labels), predictions.logits)
        factor_N = _gather(on_grid, assignment)
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
    if not has_ignored and (annotated is None or bool(annotated.all())):
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


def check_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor], num_classes: int) -> None:
    """Refuse ground truth that cannot be learned from.

    Raises:
        ValueError: Boxes and labels differ in number; a box has no size or is not finite (its velocity may be NaN);
            a label is not a class.
    """
    if len(boxes) != len(labels) or any(len(b) != len(t) for b, t in zip(boxes, labels, strict=False)):
        raise ValueError(
            f"boxes and labels must pair up, but number {[len(b) for b in boxes]} and {[len(t) for t in labels]}"
        )
    if not boxes:
        raise ValueError("the batch is empty; it needs at least one item, which may be without boxes")
    all_boxes, all_labels = torch.cat(list(boxes)), torch.cat(list(labels))
    sizes = all_boxes[:, 3:6]
    sound = all_boxes[:, : _VELOCITY.start].isfinite().all() & (sizes > 0).all()
    known = ((all_labels >= 0) & (all_labels < num_classes)).all()
    if not bool(sound & known):
        raise ValueError(
            "ground truth must have finite boxes of positive size (only the velocity may be NaN) and labels in "
            f"0...{num_classes - 1}; check the annotations of this batch"
        )


def inside_grid(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], grid: BevGrid | None
) -> tuple[list[Tensor], list[Tensor]]:
    """The boxes B x (M_b, 9) whose centre lies in the extent of the grid, and their labels, or whatever else each box
    has; None keeps all."""
    if grid is None:
        return list(boxes), list(labels)
    inside = [grid.contains(item[:, :3]) for item in boxes]
    return (
        [item[keep] for item, keep in zip(boxes, inside, strict=True)],
        [item[keep] for item, keep in zip(labels, inside, strict=True)],
    )


def _gather(targets: Sequence[Tensor], assignment: Assignment) -> Tensor:
    """Targets of the pairs, in their order: (N, ...)."""
    counts = torch.tensor([0, *(len(item) for item in targets)], device=assignment.item.device)
    return torch.cat(list(targets))[counts.cumsum(0)[assignment.item] + assignment.target]


def _mean_over_ranks(count: int, like: Tensor) -> Tensor:
    """Number of boxes, averaged over the ranks of a distributed run, at least 1: float32 scalar."""
    mean = torch.tensor(float(count), device=like.device)
    if is_available() and is_initialized():
        all_reduce(mean)
        mean = mean / get_world_size()
    return mean.clamp(min=1.0)

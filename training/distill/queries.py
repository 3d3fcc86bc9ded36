"""The teacher's best queries, and which query of the student answers to each.

Shape legend: L student decoder layers, B batch, Q student queries, K teacher queries that are kept, D numbers of a
query.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from bevdistill_ros.model.records import SetPrediction
from training.criterion.matcher import NUM_MATCHED_CODES, assign, box_cost
from training.teacher.output import TeacherOutput

_UNWANTED = 1e-8  # share of the cost at which targets count that are matched last


@dataclass(frozen=True, kw_only=True)
class TeacherQueries:
    """Queries of the teacher's last decoder layer, best first, without gradient."""

    logits: Tensor  # (B, K, classes) float32
    codes: Tensor  # (B, K, 10) float32, core.boxes regression code in metres
    features: Tensor  # (B, K, D) float32, the layer before the prediction heads


def best_queries(teacher: TeacherOutput, student: SetPrediction, count: int) -> TeacherQueries:
    """The teacher's queries of the highest class scores.

    Args:
        teacher: Must have queries.
        student: Each teacher query needs one of these; with fewer of them, fewer are kept.
        count: How many at most.

    Raises:
        ValueError: The teacher has no queries, or other classes than the student.
    """
    if teacher.predictions is None:
        raise ValueError(
            "this teacher has no queries, which this method compares; choose a method that compares BEV maps, as "
            "bevdistill_dense does"
        )
    if teacher.predictions.logits.shape[-1] != student.logits.shape[-1]:
        raise ValueError(
            "teacher and student must have the same classes, but the teacher has "
            f"{teacher.predictions.logits.shape[-1]} and the student {student.logits.shape[-1]}"
        )
    logits_BQK = teacher.predictions.logits[-1].detach().float()
    scores_BQ = logits_BQK.amax(dim=-1)
    kept = min(count, scores_BQ.shape[1], student.logits.shape[2])
    index_BK1 = scores_BQ.topk(kept, dim=1).indices.unsqueeze(-1)

    def keep(values: Tensor) -> Tensor:
        return values[-1].detach().float().take_along_dim(index_BK1, dim=1)

    return TeacherQueries(
        logits=keep(teacher.predictions.logits),
        codes=keep(teacher.predictions.codes),
        features=keep(teacher.predictions.features),
    )


@torch.no_grad()
def match(
    student: SetPrediction,
    targets: TeacherQueries,
    *,
    class_weight: float,
    box_weight: float,
    wanted: Tensor | None = None,
) -> Tensor:
    """The student's query for each of the teacher's, one to one, in every decoder layer.

    The cost is the binary cross-entropy of the student's classes against the teacher's scores, summed over classes,
    and the L1 distance of the codes in metres without velocity, as in the detection loss.

    Args:
        student: All layers.
        targets: At most as many as the student has queries.
        class_weight: Of the cross-entropy.
        box_weight: Of the L1 distance [1/m].
        wanted: (B, K) bool, targets to match first; the others share what is left. None: all.

    Returns:
        Query indices (L, B, K) int64.

    Raises:
        ValueError: A prediction is not finite.
    """
    logits_LBQC = student.logits.float()
    agreement_LBQK = logits_LBQC @ targets.logits.sigmoid().transpose(-1, -2)
    class_cost = softplus(logits_LBQC).sum(dim=-1, keepdim=True) - agreement_LBQK
    codes_LBKD = targets.codes.expand(len(student.codes), *targets.codes.shape)
    cost = class_weight * class_cost + box_weight * box_cost(student.codes, codes_LBKD)
    if wanted is not None:
        cost = torch.where(wanted[None, :, None, :], cost, _UNWANTED * cost)
    batch, count = targets.codes.shape[:2]
    # Pairs come by layer, item and target, and every target has one, since there are no fewer queries.
    return assign(cost, [count] * batch).query.view(len(student.codes), batch, count)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Pick queries (L, B, K) int64 from values (L, B, Q, D): (L, B, K, D) float32."""
    return values.float().take_along_dim(index.unsqueeze(-1), dim=2)


def class_divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence of sigmoid scores from the target's, summed over classes: (..., C) -> (...).

    It is the soft cross-entropy less the target's entropy: the same gradient, and zero where both agree.
    """
    target = target_logits.sigmoid()
    present = target * (logsigmoid(target_logits) - logsigmoid(logits))
    absent = (1 - target) * (logsigmoid(-target_logits) - logsigmoid(-logits))
    return (present + absent).sum(dim=-1)


def code_distance(codes: Tensor, target_codes: Tensor, velocity_weight: float) -> Tensor:
    """L1 distance of codes (..., 10) in metres: (...); the two velocities count `velocity_weight`."""
    error = (codes - target_codes).abs()
    return error[..., :NUM_MATCHED_CODES].sum(dim=-1) + velocity_weight * error[..., NUM_MATCHED_CODES:].sum(dim=-1)

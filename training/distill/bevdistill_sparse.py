"""Sparse, quality-weighted distillation of BEVDistill (arXiv 2211.09386), section 3.2.

The K best queries of the teacher's last decoder layer {class scores c_i, box b_i, feature h_i} are matched one to one
to the student's queries in each decoder layer, i -> m(i), and weigh by their quality

    q_i = c_i^gamma * IoU_BEV(b_i, its ground truth)^(1 - gamma)

where c_i is the score of the box's class and its ground truth the box of that class that it overlaps most; 0 without
one.

    box = sum_i q_i |b_i - b^S_m(i)|_1 / max(sum_i q_i, 1)
    mi  = sum_i q_i InfoNCE(h_i, h^S_m(i)) / max(sum_i q_i, 1)      (`mutual_information`)
    kl  = sum_i q_i KL(c_i, c^S_m(i)) / max(sum_i q_i, 1)

each summed over decoder layers, as the detection loss is, and averaged over items. Boxes are compared as the detection
loss compares them: as regression codes, in metres, logarithms of sizes, sine and cosine, and velocities at a fifth.
Pairs whose teacher boxes lie on one object, whatever class they were given, are never each other's negatives.

Teacher queries of quality 0 are matched last, so that they take no student query from a better one.

Deviations: the term box is off unless `box_term` asks for it. The divisor is at least 1, so that a frame of no good
teacher box does not count in full. InfoNCE has the teacher's features as anchors. `positions: release` follows the
authors' release, which contrasts BEV features sampled at the centres that all queries of all layers predict, without a
class term; here the negatives are of the same layer, since the centres that one query predicts in different layers
nearly coincide.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import decode_boxes, iou_bev
from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Tap, Weight, bev_pair
from training.distill.mutual_information import Critic, info_nce
from training.distill.queries import TeacherQueries, best_queries, class_divergence, code_distance, match, take
from training.teacher.output import TeacherOutput

ClassTerm = Literal["mi", "kl", "none"]
Positions = Literal["matched", "release"]
Negatives = Literal["item", "batch"]


@dataclass(frozen=True, kw_only=True)
class BevDistillSparseConfig(MethodConfig):
    """Settings of the sparse part of BEVDistill."""

    emphasis: float = 0.1  # more of it than that cost NDS beside the dense part
    class_term: ClassTerm = "mi"
    class_term_weight: Weight = "auto"  # the paper's alpha
    box_term: bool = False  # the paper's, which cost NDS wherever it was measured
    box_term_weight: Weight = "auto"  # the paper's beta [1/m]
    quality: bool = True  # weigh pairs by the quality of the teacher's box
    gamma: float = 0.5  # share of the score in the quality
    num_queries: int = 50  # of the teacher, best first
    temperature: float = 0.07  # of the mi term
    critic_width: int = 512  # of the mi term
    positions: Positions = "matched"  # where the mi term takes its features
    negatives: Negatives = "item"  # where the mi term takes the negatives of matched queries
    match_class_weight: float = 1.0
    match_box_weight: float = 0.25  # [1/m]
    velocity_weight: float = 0.2  # of vx and vy inside the box term
    tap: Tap = "auto"  # teacher map, for positions: release

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_term == "none" and not self.box_term:
            raise ValueError("bevdistill_sparse without class_term and box_term teaches nothing; switch one on")
        if self.positions == "release" and self.class_term != "mi":
            raise ValueError(f"positions: release belongs to class_term mi, but class_term is {self.class_term}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"bevdistill_sparse.gamma must be in [0, 1], but is {self.gamma}")
        for name in ("num_queries", "critic_width", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"bevdistill_sparse.{name} must be above 0, but is {getattr(self, name)}")

    published = MappingProxyType({"class_term_weight": {"paper": 1.0}, "box_term_weight": {"paper": 0.25}})

    def terms(self) -> dict[str, str]:
        terms = {} if self.class_term == "none" else {f"sparse_{self.class_term}": "class_term_weight"}
        return terms | ({"sparse_box": "box_term_weight"} if self.box_term else {})

    def tap_read(self) -> Tap | None:
        return self.tap if self.positions == "release" else None

    def build(self, shapes: DistillShapes) -> "BevDistillSparse":
        return BevDistillSparse(self, shapes)


class BevDistillSparse(Distiller):
    """Imitation of the teacher's best queries."""

    def __init__(self, config: BevDistillSparseConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        self.critic = None
        if config.class_term == "mi":
            from_maps = config.positions == "release"
            self.critic = Critic(
                teacher_dim=shapes.teacher_channels if from_maps else shapes.teacher_feature_dim,
                student_dim=shapes.student_channels if from_maps else shapes.student_feature_dim,
                width=config.critic_width,
            )

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return of {"sparse_mi", "sparse_kl", "sparse_box"} the terms that are switched on."""
        predictions = student.predictions
        targets = best_queries(teacher, predictions, self._config.num_queries)
        quality_BK, objects_BK = rate(targets, batch.boxes, batch.labels, gamma=self._config.gamma)
        weight_BK = quality_BK if self._config.quality else torch.ones_like(quality_BK)
        index_LBK = match(
            predictions,
            targets,
            class_weight=self._config.match_class_weight,
            box_weight=self._config.match_box_weight,
            wanted=weight_BK > 0,
        )
        losses: dict[str, Tensor] = {}
        if self._config.class_term == "kl":
            divergence_LBK = class_divergence(take(predictions.logits, index_LBK), targets.logits)
            losses["sparse_kl"] = _reduce(divergence_LBK, weight_BK)
        elif self._config.class_term == "mi" and self._config.positions == "matched":
            bound_LBK = self._contrast_queries(targets.features, take(predictions.features, index_LBK), objects_BK)
            losses["sparse_mi"] = _reduce(bound_LBK, weight_BK)
        elif self._config.class_term == "mi":
            losses["sparse_mi"] = self._contrast_maps(student, teacher)
        if self._config.box_term:
            error_LBK = code_distance(take(predictions.codes, index_LBK), targets.codes, self._config.velocity_weight)
            losses["sparse_box"] = _reduce(error_LBK, weight_BK)
        return losses

    def _contrast_queries(self, teacher_BKD: Tensor, student_LBKD: Tensor, objects_BK: Tensor) -> Tensor:
        """InfoNCE (L, B, K) of matched queries."""
        assert self.critic is not None
        batch, count = objects_BK.shape
        if self._config.negatives == "batch":
            # One long item; objects of different items get different numbers.
            offset = torch.arange(batch, device=objects_BK.device)[:, None] * (objects_BK.max() + 1)
            objects_BK = torch.where(objects_BK >= 0, objects_BK + offset, objects_BK).view(1, -1)
            teacher_BKD = teacher_BKD.flatten(0, 1).unsqueeze(0)
            student_LBKD = student_LBKD.flatten(1, 2).unsqueeze(1)
        same_object = (objects_BK[:, :, None] == objects_BK[:, None, :]) & (objects_BK >= 0)[:, :, None]
        mapped_teacher, mapped_student = self.critic(teacher_BKD, student_LBKD)
        bound = info_nce(mapped_teacher, mapped_student, same_object, temperature=self._config.temperature)
        return bound.view(len(student_LBKD), batch, count)

    def _contrast_maps(self, student: StudentOutput, teacher: TeacherOutput) -> Tensor:
        """InfoNCE of the maps at predicted centres: mean over centres inside the grid and items, sum over layers."""
        assert self.critic is not None
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        centres_LBQ2 = student.predictions.codes[..., :2].detach().float()
        layers = []
        for centres_BQ2 in centres_LBQ2:
            inside_BQ = self._grid.contains(centres_BQ2)
            mapped_teacher, mapped_student = self.critic(
                self._grid.sample(teacher_bev, centres_BQ2), self._grid.sample(student_bev, centres_BQ2)
            )
            outside = ~inside_BQ[:, None, :].expand(-1, inside_BQ.shape[1], -1)
            layers.append(info_nce(mapped_teacher, mapped_student, outside, temperature=self._config.temperature))
        weight_LBQ = self._grid.contains(centres_LBQ2).float()
        total_LB = (weight_LBQ * torch.stack(layers)).sum(dim=-1)
        return (total_LB / weight_LBQ.sum(dim=-1).clamp(min=1.0)).mean(dim=1).sum()


@torch.no_grad()
def rate(
    targets: TeacherQueries, boxes: Sequence[Tensor], labels: Sequence[Tensor], *, gamma: float
) -> tuple[Tensor, Tensor]:
    """How good the teacher's boxes are, and which object each lies on.

    Args:
        targets: The teacher's queries.
        boxes: Ground truth B x (M_b, 9).
        labels: Its classes B x (M_b,).
        gamma: Share of the score.

    Returns:
        Quality (B, K) float32 in [0, 1], and the index (B, K) int64 of the ground-truth box of any class that the
        teacher's box overlaps most, -1 where it overlaps none.
    """
    scores_BK, classes_BK = targets.logits.sigmoid().max(dim=-1)
    predicted_BK9 = decode_boxes(targets.codes)
    overlap_BK, objects_BK = torch.zeros_like(scores_BK), torch.full_like(classes_BK, -1)
    count = scores_BK.shape[1]
    sizes = [len(item) for item in boxes]
    predicted = [item.repeat_interleave(size, dim=0) for item, size in zip(predicted_BK9, sizes, strict=True)]
    truth = [item.float().repeat(count, 1) for item in boxes]
    overlaps = iou_bev(torch.cat(predicted), torch.cat(truth)).split([count * size for size in sizes])
    for item, classes in enumerate(labels):
        if not len(classes):
            continue
        overlap_KM = overlaps[item].view(count, len(classes))
        best_K, nearest_K = overlap_KM.max(dim=1)
        objects_BK[item] = torch.where(best_K > 0, nearest_K, -1)
        same_class = classes_BK[item][:, None] == classes[None]
        overlap_BK[item] = torch.where(same_class, overlap_KM, 0.0).amax(dim=1)
    quality_BK = scores_BK.pow(gamma) * overlap_BK.pow(1 - gamma)
    return torch.where(overlap_BK > 0, quality_BK, 0.0), objects_BK


def _reduce(values_LBK: Tensor, weight_BK: Tensor) -> Tensor:
    """Weighted mean over queries, mean over items, sum over layers."""
    total_LB = (weight_BK * values_LBK).sum(dim=-1)
    return (total_LB / weight_BK.sum(dim=-1).clamp(min=1.0)).mean(dim=1).sum()

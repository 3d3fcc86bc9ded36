"""MonoDistill (arXiv 2201.10830), section 3: distillation in the scene, object and result space, on BEV maps.

    feature  = mean of (a(F_S) - F_T)^2 inside ground-truth boxes (object scope; weight 10)
    affinity = mean of |A_S - A_T|, A the cosine similarity of every two cells of a pooled map (scene scope)
    response = L1 of two dense box maps, weighted by a Gaussian around the ground truth (result space)

Deviations: a is a 1x1 convolution that starts as the identity, as the maps are made by different networks. DETR-like
models have no dense result, so each map gets a dense box head that belongs to the distiller. The teacher's head
learns from the ground truth, on the teacher's fixed map (the term `monodistill_teacher_head`, which never reaches the
student). The student's head learns from the teacher's answers alone: dense ground truth on the student's map would
help by itself and be mistaken for distillation.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import (
    Distiller,
    DistillShapes,
    MethodConfig,
    Tap,
    Weight,
    bev_pair,
    exact_product,
    identity_convolution,
)
from training.distill.dense_head import DenseBoxHead, box_map, map_distance
from training.distill.foreground import foreground_mask, weighted_mean
from training.teacher.output import TeacherOutput


@dataclass(frozen=True, kw_only=True)
class MonoDistillConfig(MethodConfig):
    """Settings of MonoDistill."""

    feature_weight: Weight = "auto"
    affinity_weight: Weight = "auto"
    response_weight: Weight = "auto"
    teacher_head_weight: float = 1.0  # of the teacher head's own training; never reaches the student
    sigma: float = 1.6  # spread of the response mask around a box centre [m]
    affinity_cells: int = 32  # rows and columns of the map of the affinity term, at most
    tap: Tap = "auto"  # teacher map

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sigma", "affinity_cells"):
            if getattr(self, name) <= 0:
                raise ValueError(f"monodistill.{name} must be above 0, but is {getattr(self, name)}")

    published = MappingProxyType(
        {"feature_weight": {"paper": 10.0}, "affinity_weight": {"paper": 1.0}, "response_weight": {"paper": 1.0}}
    )

    def terms(self) -> dict[str, str]:
        return {f"monodistill_{name}": f"{name}_weight" for name in ("feature", "affinity", "response", "teacher_head")}

    def build(self, shapes: DistillShapes) -> "MonoDistill":
        return MonoDistill(self, shapes)


class MonoDistill(Distiller):
    """Imitation of the teacher's map inside boxes, of its inner similarities, and of what a dense head reads."""

    def __init__(self, config: MonoDistillConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        self.adapter = identity_convolution(shapes.student_channels, shapes.teacher_channels)
        self.student_head = DenseBoxHead(shapes.student_channels)
        self.teacher_head = DenseBoxHead(shapes.teacher_channels)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"monodistill_" + "feature", "affinity", "response", "teacher_head"}, each the mean over items."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        inside = foreground_mask("box", batch.boxes, self._grid)
        around = foreground_mask("soft", batch.boxes, self._grid, sigma=self._config.sigma)
        adapted = self.adapter(student_bev).float()
        student_boxes, teacher_boxes = self.student_head(student_bev).float(), self.teacher_head(teacher_bev).float()
        similarity = affinity(adapted, self._config.affinity_cells) - affinity(teacher_bev, self._config.affinity_cells)
        truth = box_map(batch.boxes, self._grid)
        return {
            "monodistill_feature": weighted_mean((adapted - teacher_bev).square().mean(dim=1), inside),
            "monodistill_affinity": similarity.abs().mean(),
            "monodistill_response": weighted_mean(map_distance(student_boxes, teacher_boxes.detach()), around),
            "monodistill_teacher_head": weighted_mean(map_distance(teacher_boxes, truth), around),
        }


def affinity(bev: Tensor, cells: int) -> Tensor:
    """Cosine similarity of every two cells.

    Args:
        bev: (B, C, rows, cols).
        cells: The map is averaged down to this many rows and columns, if it has more.

    Returns:
        (B, N, N), N = min(rows, cells) * min(cols, cells); a cell of zeros is like none, not even itself.
    """
    rows, cols = bev.shape[-2:]
    pooled = adaptive_avg_pool2d(bev, (min(rows, cells), min(cols, cells)))
    unit_BCN = normalize(pooled.flatten(2), dim=1)
    return exact_product(unit_BCN.transpose(1, 2), unit_BCN)

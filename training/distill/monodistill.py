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

from bevdistill_ros.core.grid import BevGrid
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


class MonoDistill(Distiller):
    """Imitation of the teacher's map inside boxes, of its inner similarities, and of what a dense head reads from it.

    Args:
        student_channels: Of the student's map.
        teacher_channels: Of the teacher's map.
        grid: Of both maps.
        sigma: Spread of the response mask around a box centre [m].
        affinity_cells: Rows and columns of the pooled map, at most.
        tap: Which map of the teacher.
    """

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        grid: BevGrid,
        sigma: float,
        affinity_cells: int,
        tap: Tap,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.sigma = sigma
        self.affinity_cells = affinity_cells
        self.tap: Tap = tap
        self.adapter = identity_convolution(student_channels, teacher_channels)
        self.student_head = DenseBoxHead(student_channels)
        self.teacher_head = DenseBoxHead(teacher_channels)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"monodistill_" + "feature", "affinity", "response", "teacher_head"}, each the mean over items."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self.grid, tap=self.tap)
        inside = foreground_mask("box", batch.boxes, self.grid)
        around = foreground_mask("soft", batch.boxes, self.grid, sigma=self.sigma)
        adapted = self.adapter(student_bev).float()
        student_boxes, teacher_boxes = self.student_head(student_bev).float(), self.teacher_head(teacher_bev).float()
        similarity = affinity(adapted, self.affinity_cells) - affinity(teacher_bev, self.affinity_cells)
        truth = box_map(batch.boxes, self.grid)
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

    def build(self, shapes: DistillShapes) -> MonoDistill:
        return MonoDistill(
            student_channels=shapes.student_channels,
            teacher_channels=shapes.teacher_channels,
            grid=shapes.grid,
            sigma=self.sigma,
            affinity_cells=self.affinity_cells,
            tap=self.tap,
        )

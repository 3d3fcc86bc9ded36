"""Set-to-set distillation, Object-DGCNN (arXiv 2110.06923), section on knowledge distillation.

The teacher's predicted set is a second ground truth: its queries are matched one to one to the student's, in every
decoder layer, and each matched query learns the teacher's class scores (cross-entropy with soft labels) and box (L1).
Good and bad teacher boxes have the same weight.

Deviations: the class term is the cross-entropy less the teacher's entropy, so that it is zero where both agree; the
gradient is the same. Velocities count as in the detection loss.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Weight
from training.distill.queries import best_queries, class_divergence, code_distance, match, take
from training.teacher.output import TeacherOutput


@dataclass(frozen=True, kw_only=True)
class Set2SetConfig(MethodConfig):
    """Settings of Set2Set."""

    class_weight: Weight = "auto"
    box_weight: Weight = "auto"  # [1/m]
    num_queries: int = 300  # of the teacher, best first; 300 are all that Object-DGCNN has
    match_class_weight: float = 1.0
    match_box_weight: float = 0.25  # [1/m]
    velocity_weight: float = 0.2  # of vx and vy inside the box term

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_queries < 1:
            raise ValueError(f"set2set.num_queries must be at least 1, but is {self.num_queries}")

    published = MappingProxyType({"class_weight": {"paper": 1.0}, "box_weight": {"paper": 0.25}})

    def terms(self) -> dict[str, str]:
        return {"set2set_class": "class_weight", "set2set_box": "box_weight"}

    def build(self, shapes: DistillShapes) -> "Set2Set":
        return Set2Set(self, shapes)


class Set2Set(Distiller):
    """Imitation of the teacher's predicted set."""

    def __init__(self, config: Set2SetConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config = config

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"set2set_class", "set2set_box"}: mean over matched pairs and items, sum over decoder layers."""
        predictions = student.predictions
        targets = best_queries(teacher, predictions, self._config.num_queries)
        index_LBK = match(
            predictions, targets, class_weight=self._config.match_class_weight, box_weight=self._config.match_box_weight
        )
        class_LBK = class_divergence(take(predictions.logits, index_LBK), targets.logits)
        box_LBK = code_distance(take(predictions.codes, index_LBK), targets.codes, self._config.velocity_weight)
        return {
            "set2set_class": class_LBK.mean(dim=(1, 2)).sum(),
            "set2set_box": box_LBK.mean(dim=(1, 2)).sum(),
        }

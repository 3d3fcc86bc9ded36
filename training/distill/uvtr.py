"""UVTR (arXiv 2206.00630), cross-modality knowledge transfer, on BEV maps.

At the centres that the student's queries predict in each decoder layer, both maps are sampled, and the student's
sample s is drawn to the teacher's t where s > t or t > 0: what the teacher holds inactive is not copied where the
student is lower still.

Deviations: the samples are of 2D BEV maps, not of 3D voxel spaces; a 1x1 convolution, which starts as the identity,
brings the student's map to the teacher's channels; centres outside the grid are left out of the mean over queries.
"""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Tap, Weight, bev_pair, identity_convolution
from training.distill.foreground import weighted_mean
from training.teacher.output import TeacherOutput


@dataclass(frozen=True, kw_only=True)
class UvtrConfig(MethodConfig):
    """Settings of UVTR."""

    weight: Weight = "auto"
    tap: Tap = "auto"  # teacher map

    published = MappingProxyType({"weight": {"paper": 0.01, "release": 0.01}})

    def terms(self) -> dict[str, str]:
        return {"uvtr": "weight"}

    def build(self, shapes: DistillShapes) -> "Uvtr":
        return Uvtr(self, shapes)


class Uvtr(Distiller):
    """Imitation of the teacher's features where the student looks for objects."""

    def __init__(self, config: UvtrConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        self.adapter = identity_convolution(shapes.student_channels, shapes.teacher_channels)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"uvtr"}: summed over channels, averaged over the queries whose centre lies inside the grid, summed
        over decoder layers, and averaged over items, as in UVTR's own code."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        centres_LBQ2 = student.predictions.codes[..., :2].detach().float()
        num_layers = len(centres_LBQ2)
        centres_BN2 = centres_LBQ2.transpose(0, 1).flatten(1, 2)
        student_BNC = self._grid.sample(self.adapter(student_bev), centres_BN2)
        teacher_BNC = self._grid.sample(teacher_bev, centres_BN2)
        counted = (student_BNC > teacher_BNC) | (teacher_BNC > 0)
        error_BN = torch.where(counted, student_BNC - teacher_BNC, 0.0).square().sum(dim=-1)
        inside_BN = self._grid.contains(centres_BN2).float()
        layers = [value.unflatten(1, (num_layers, -1)).flatten(0, 1) for value in (error_BN, inside_BN)]
        return {"uvtr": num_layers * weighted_mean(*layers)}

"""FitNets (arXiv 1412.6550), hint training (equation 3), on BEV maps.

loss = sum over cells of |r(F_S) - F_T|^2 / number of cells, with r a 1x1 convolution.

Deviation: the hint is a loss beside the detection loss all through training, not a stage before it.
"""

from dataclasses import dataclass
from types import MappingProxyType

from torch import Tensor

from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Tap, Weight, bev_pair, identity_convolution
from training.teacher.output import TeacherOutput


@dataclass(frozen=True, kw_only=True)
class FitNetConfig(MethodConfig):
    """Settings of FitNet."""

    weight: Weight = "auto"  # of a sum over channels, as in bevdistill_dense
    tap: Tap = "auto"  # teacher map

    published = MappingProxyType({"weight": {"release": 0.01}})

    def terms(self) -> dict[str, str]:
        return {"fitnet": "weight"}

    def build(self, shapes: DistillShapes) -> "FitNet":
        return FitNet(self, shapes)


class FitNet(Distiller):
    """Plain mimicking of the teacher's map, everywhere."""

    def __init__(self, config: FitNetConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        self.regressor = identity_convolution(shapes.student_channels, shapes.teacher_channels)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"fitnet"}: squared error, summed over channels, mean over cells and items."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        error_BHW = (self.regressor(student_bev).float() - teacher_bev).square().sum(dim=1)
        return {"fitnet": error_BHW.mean()}

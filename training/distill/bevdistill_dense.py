"""Dense, foreground-guided distillation of BEVDistill (arXiv 2211.09386), section 3.2.

loss = sum_p W(p) |F_S(p) - F_T(p)|^2 / max(sum_p W(p), 1), with W the foreground mask (`foreground`) and the norm
over channels; weight 0.01, as in the authors' release.

Deviation: the paper passes both maps through trained adapters of one kind, convolution, normalisation and ReLU.
Trained by this very loss they have a solution without learning: both put out zero (or, with the scale fixed, whatever
is easiest to predict), the loss vanishes and with it the gradient to the student. So by default the teacher's side is
normalisation alone: each channel is brought to mean 0 and variance 1, which is not trained and keeps what the map
contains; and the student's adapter ends in a 1x1 convolution, since the target has both signs. `teacher_adapter: conv`
is the paper's way; `none` takes the map as it is.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor, nn

from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Tap, Weight, bev_pair
from training.distill.foreground import Mask, foreground_mask, weighted_mean
from training.teacher.output import TeacherOutput

TeacherAdapter = Literal["norm", "conv", "none"]
StudentAdapter = Literal["conv", "none"]


@dataclass(frozen=True, kw_only=True)
class BevDistillDenseConfig(MethodConfig):
    """Settings of the dense part of BEVDistill."""

    weight: Weight = "auto"  # of a sum over channels
    mask: Mask = "soft"  # cells that count
    sigma: float = 1.6  # spread of the masks soft and teacher_score [m]
    teacher_adapter: TeacherAdapter = "norm"  # conv is the paper's, and can collapse
    student_adapter: StudentAdapter = "conv"  # none compares the student's map as it is
    tap: Tap = "auto"  # teacher map

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise ValueError(f"bevdistill_dense.sigma must be above 0 m, but is {self.sigma}")

    published = MappingProxyType({"weight": {"release": 0.01}})

    def terms(self) -> dict[str, str]:
        return {"dense": "weight"}

    def build(self, shapes: DistillShapes) -> "BevDistillDense":
        return BevDistillDense(self, shapes)


class BevDistillDense(Distiller):
    """Imitation of the teacher's map, weighted by the foreground."""

    def __init__(self, config: BevDistillDenseConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        student_channels, teacher_channels = shapes.student_channels, shapes.teacher_channels
        self.teacher_adapter: nn.Module
        self.student_adapter: nn.Module = nn.Identity()
        if config.student_adapter == "conv":
            self.student_adapter = _convolution(student_channels, teacher_channels)
            if config.teacher_adapter != "conv":
                self.student_adapter.append(nn.Conv2d(teacher_channels, teacher_channels, 1))
        elif student_channels != teacher_channels:
            raise ValueError(
                f"the student's map has {student_channels} channels and the teacher's {teacher_channels}, so they "
                "can't be compared as they are; set distill.bevdistill_dense.student_adapter to conv"
            )
        if config.teacher_adapter == "conv":
            self.teacher_adapter = _convolution(teacher_channels, teacher_channels)
        else:
            is_norm = config.teacher_adapter == "norm"
            self.teacher_adapter = nn.BatchNorm2d(teacher_channels, affine=False) if is_norm else nn.Identity()

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"dense"}: mean over items of the masked error; an item without objects gives 0."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        mask_BHW = foreground_mask(
            self._config.mask, batch.boxes, self._grid, sigma=self._config.sigma, predictions=teacher.predictions
        )
        difference = self.student_adapter(student_bev).float() - self.teacher_adapter(teacher_bev).float()
        return {"dense": weighted_mean(difference.square().sum(dim=1), mask_BHW)}


def _convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )

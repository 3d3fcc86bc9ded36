"""Dense, foreground-guided distillation of BEVDistill (arXiv 2211.09386), section 3.2.

loss = sum_p W(p) |F_S(p) - F_T(p)|^2 / max(sum_p W(p), 1), with W the foreground mask (`foreground`) and the norm
over channels; weight 0.01, as in the authors' release.

Deviation: the paper passes both maps through trained adapters of one kind, convolution, normalisation and ReLU.
Trained by this very loss they have a solution without learning: both put out zero (or, with the scale fixed, whatever
is easiest to predict), the loss vanishes and with it the gradient to the student. `teacher_adapter: conv` is the
paper's way; `auto`, the default, is one of two others:

- Where the student's decoder starts as the teacher's, both maps are taken as they are: the nearer the student's map
  comes to the teacher's, the better its decoder reads it, and no adapter is paid for.
- Elsewhere the teacher's side is normalisation alone: each channel is brought to mean 0 and variance 1, which is not
  trained and keeps what the map contains; and the student's adapter ends in a 1x1 convolution, since the target has
  both signs.
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

TeacherAdapter = Literal["auto", "norm", "conv", "none"]
StudentAdapter = Literal["auto", "conv", "none"]


@dataclass(frozen=True, kw_only=True)
class BevDistillDenseConfig(MethodConfig):
    """Settings of the dense part of BEVDistill."""

    weight: Weight = "auto"  # of a sum over channels
    mask: Mask = "soft"  # cells that count
    sigma: float = 1.6  # spread of the masks soft and teacher_score [m]
    # Of each map before they are compared; none takes it as it is. auto: none where the student's decoder starts as the
    # teacher's and no other adapter is set, else norm and conv. conv for the teacher is the paper's, and can collapse.
    teacher_adapter: TeacherAdapter = "auto"
    student_adapter: StudentAdapter = "auto"
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

    def adapters(self, *, shares_decoder: bool) -> tuple[TeacherAdapter, StudentAdapter]:
        """Which adapters auto stands for, of the teacher and of the student."""
        is_free = {self.teacher_adapter, self.student_adapter} <= {"auto", "none"}
        if shares_decoder and is_free and self.tap != "finest":  # the decoder reads the map after the encoder
            return "none", "none"
        return (
            "norm" if self.teacher_adapter == "auto" else self.teacher_adapter,
            "conv" if self.student_adapter == "auto" else self.student_adapter,
        )


class BevDistillDense(Distiller):
    """Imitation of the teacher's map, weighted by the foreground."""

    def __init__(self, config: BevDistillDenseConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        student_channels, teacher_channels = shapes.student_channels, shapes.teacher_channels
        of_teacher, of_student = config.adapters(shares_decoder=shapes.shares_decoder)
        self.teacher_adapter: nn.Module = nn.Identity()
        self.student_adapter: nn.Module = nn.Identity()
        if of_student == "conv":
            self.student_adapter = _convolution(student_channels, teacher_channels)
            if of_teacher != "conv":
                self.student_adapter.append(nn.Conv2d(teacher_channels, teacher_channels, 1))
        elif student_channels != teacher_channels:
            raise ValueError(
                f"the student's map has {student_channels} channels and the teacher's {teacher_channels}, so they "
                "can't be compared as they are; set distill.bevdistill_dense.student_adapter to conv"
            )
        if of_teacher == "conv":
            self.teacher_adapter = _convolution(teacher_channels, teacher_channels)
        elif of_teacher == "norm":
            self.teacher_adapter = nn.BatchNorm2d(teacher_channels, affine=False)

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

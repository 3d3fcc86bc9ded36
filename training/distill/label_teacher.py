"""Distillation from the ground truth itself, after LabelDistill (arXiv 2407.10164).

Labels know what no sensor measures well, far and hidden objects. An encoder draws the boxes of a frame as a BEV map
that the teacher's decoder, which does not move, reads as those very boxes: it is learned as the inverse of that
decoder. The student imitates this map as it would the teacher's (`bevdistill_dense`), where objects are.

Deviations: the encoder is a convolution over the boxes as drawn maps (class heatmaps, and in each cell the box of the
nearest object), not a network on each box; it learns beside the student in the same run; and the student has no
channels of its own for it, but an adapter.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from bevdistill_ros.core.boxes import CODE_SIZE
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.model.records import SetPrediction, StudentOutput
from training.criterion.heatmap import gaussian_targets, heatmap_loss
from training.criterion.matcher import HungarianMatcher
from training.criterion.set_loss import SetCriterion
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Weight
from training.distill.bevdistill_dense import BevDistillDense, BevDistillDenseConfig
from training.distill.dense_head import box_map
from training.distill.foreground import foreground_mask
from training.teacher.output import TeacherOutput
from training.weights.inherit import on_finest_map

_CLASSIFICATION, _BOX = 2.0, 0.25  # weights of the encoder's own losses, BEVFormer's


@dataclass(frozen=True, kw_only=True)
class LabelTeacherConfig(MethodConfig):
    """Settings of the label teacher."""

    weight: Weight = "auto"
    encoder_weight: float = 1.0  # of the encoder's own training; never reaches the student
    sigma: float = 1.6  # spread of the mask around a box centre [m]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise ValueError(f"label_teacher.sigma must be above 0 m, but is {self.sigma}")

    def terms(self) -> dict[str, str]:
        return {"label": "weight", "label_encoder": "encoder_weight"}

    def build(self, shapes: DistillShapes) -> "LabelTeacher":
        return LabelTeacher(self, shapes)


class LabelTeacher(Distiller):
    """Imitation of the ground truth as a BEV map."""

    def __init__(self, config: LabelTeacherConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        channels = shapes.teacher_channels
        self.encoder = nn.Sequential(
            nn.Conv2d(NUM_CLASSES + CODE_SIZE + 1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )
        # The encoder starts at random, so its map is nothing yet that the student's decoder could read.
        adapted = BevDistillDenseConfig(
            sigma=config.sigma, tap="encoded", teacher_adapter="norm", student_adapter="conv"
        )
        self.dense = BevDistillDense(adapted, shapes)
        matcher = HungarianMatcher(class_weight=_CLASSIFICATION, box_weight=_BOX)
        self._criterion = SetCriterion(matcher=matcher, grid=shapes.grid)
        self._head = (
            on_finest_map(shapes.decoder_for("label_teacher")),
        )  # in a tuple, so that it is neither saved nor trained

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"label", "label_encoder"}; the second trains the encoder, and never reaches the student."""
        label_bev = self.encoder(draw_labels(batch.boxes, batch.labels, self._grid, sigma=self._config.sigma))
        imitated = self.dense(student, replace(teacher, encoded=label_bev), batch)
        return {"label": imitated["dense"], "label_encoder": self._misread(self._head[0]([label_bev]), batch)}

    def _misread(self, read: SetPrediction, batch: Batch) -> Tensor:
        """Detection loss of what the decoder reads of the encoder's map, mean over items."""
        losses = []
        for item, (boxes, labels) in enumerate(zip(batch.boxes, batch.labels, strict=True)):
            one = slice(item, item + 1)
            own = SetPrediction(
                logits=read.logits[:, one].float(), codes=read.codes[:, one].float(), features=read.features[:, one]
            )
            terms = self._criterion(own, [boxes], [labels])
            losses.append(_CLASSIFICATION * terms["classification"] + _BOX * terms["box"])
            if read.heatmap is not None:
                losses[-1] = losses[-1] + heatmap_loss(read.heatmap[one].float(), [boxes], [labels], self._grid)
        return torch.stack(losses).mean()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Take the decoder along to another device."""
        self._head[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


@torch.no_grad()
def draw_labels(boxes: Sequence[Tensor], labels: Sequence[Tensor], grid: BevGrid, *, sigma: float) -> Tensor:
    """Ground truth as maps.

    Args:
        boxes: B x (M_b, 9) in the ego frame; NaN velocities are drawn as zero.
        labels: B x (M_b,) their classes.
        grid: Where to draw.
        sigma: Spread of the mask around a box centre [m].

    Returns:
        (B, classes + 10 + 1, rows, cols) float32: class heatmaps; the code of the nearest box with its centre counted
        from the cell's, as far as the mask goes; and the mask.
    """
    heatmaps = gaussian_targets(boxes, labels, grid, num_classes=NUM_CLASSES)
    mask = foreground_mask("soft", boxes, grid, sigma=sigma)[:, None].to(heatmaps)
    return torch.cat([heatmaps, mask * box_map(boxes, grid).nan_to_num().to(heatmaps), mask], dim=1)

"""UniDistill (arXiv 2303.15083), section 3: feature, relation and response distillation at nine key points a box.

The key points of a ground-truth box are its centre, its four corners and the middles of its four sides, in BEV. Each
box counts the same, whatever its size, and the background does not count.

    feature  = mean over key points of |a(F_S) - F_T|, mean over channels
    relation = mean over pairs of key points of a box of |cos_S - cos_T|, cos the cosine similarity of their features
    response = L1 of two dense box maps, weighted by a Gaussian around the ground truth

Deviations: a is a 1x1 convolution that starts as the identity. The response is the box map of `dense_head`, whose
heads are trained as in `monodistill`, not the output of the detectors, which are DETR-like and have none. The weights
are ours. Key points outside the grid are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from bevdistill_ros.core.boxes import BOX_SIZE, corners_bev
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

NUM_KEY_POINTS = 9


@dataclass(frozen=True, kw_only=True)
class UniDistillConfig(MethodConfig):
    """Settings of UniDistill."""

    feature_weight: Weight = "auto"
    relation_weight: Weight = "auto"
    response_weight: Weight = "auto"
    teacher_head_weight: float = 1.0  # of the teacher head's own training; never reaches the student
    sigma: float = 1.6  # spread of the response mask around a box centre [m]
    tap: Tap = "auto"  # teacher map

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise ValueError(f"unidistill.sigma must be above 0 m, but is {self.sigma}")

    published = MappingProxyType({f"{name}_weight": {"paper": 1.0} for name in ("feature", "relation", "response")})

    def terms(self) -> dict[str, str]:
        return {f"unidistill_{name}": f"{name}_weight" for name in ("feature", "relation", "response", "teacher_head")}

    def build(self, shapes: DistillShapes) -> "UniDistill":
        return UniDistill(self, shapes)


class UniDistill(Distiller):
    """Imitation of the teacher's features at the key points of boxes, of their relations, and of what a dense head
    reads."""

    def __init__(self, config: UniDistillConfig, shapes: DistillShapes) -> None:
        super().__init__()
        self._config, self._grid = config, shapes.grid
        self.adapter = identity_convolution(shapes.student_channels, shapes.teacher_channels)
        self.student_head = DenseBoxHead(shapes.student_channels)
        self.teacher_head = DenseBoxHead(shapes.teacher_channels)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"unidistill_" + "feature", "relation", "response", "teacher_head"}, each the mean over items."""
        student_bev, teacher_bev = bev_pair(student, teacher, grid=self._grid, tap=self._config.tap)
        points_BMP2, inside_BMP = key_points(batch.boxes, self._grid)
        student_BMPC = self._read(self.adapter(student_bev), points_BMP2)
        teacher_BMPC = self._read(teacher_bev, points_BMP2)
        relation = (_relations(student_BMPC) - _relations(teacher_BMPC)).abs()
        both_inside = inside_BMP.unsqueeze(-1) * inside_BMP.unsqueeze(-2)
        around = foreground_mask("soft", batch.boxes, self._grid, sigma=self._config.sigma)
        student_boxes, teacher_boxes = self.student_head(student_bev).float(), self.teacher_head(teacher_bev).float()
        truth = box_map(batch.boxes, self._grid)
        return {
            "unidistill_feature": weighted_mean((student_BMPC - teacher_BMPC).abs().mean(dim=-1), inside_BMP),
            "unidistill_relation": weighted_mean(relation, both_inside),
            "unidistill_response": weighted_mean(map_distance(student_boxes, teacher_boxes.detach()), around),
            "unidistill_teacher_head": weighted_mean(map_distance(teacher_boxes, truth), around),
        }

    def _read(self, bev: Tensor, points_BMP2: Tensor) -> Tensor:
        count = points_BMP2.shape[1]
        return self._grid.sample(bev, points_BMP2.flatten(1, 2)).unflatten(1, (count, NUM_KEY_POINTS))


@torch.no_grad()
def key_points(boxes: Sequence[Tensor], grid: BevGrid) -> tuple[Tensor, Tensor]:
    """The nine key points of each box.

    Args:
        boxes: B x (M_b, 9) in the ego frame.
        grid: Points outside it do not count.

    Returns:
        x, y [m] (B, M, 9, 2): centre, corners, middles of the sides, and whether they count (B, M, 9), 1 or 0. M is
        the number of boxes of the fullest item, and at least 1; the rest is filled with points that do not count.
    """
    padded = pad_sequence([item.float() for item in boxes], batch_first=True).reshape(len(boxes), -1, BOX_SIZE)
    if not padded.shape[1]:
        padded = padded.new_zeros(len(boxes), 1, BOX_SIZE)
    corners = corners_bev(padded)
    middles = (corners + corners.roll(-1, dims=-2)) / 2
    points = torch.cat([padded[..., None, :2], corners, middles], dim=-2)
    ones = [item.new_ones(len(item), dtype=torch.bool) for item in boxes]
    is_box = pad_sequence(ones, batch_first=True)
    is_box = is_box if is_box.shape[1] else is_box.new_zeros(len(boxes), 1)
    return points, (grid.contains(points) & is_box[..., None]).float()


def _relations(features_BMPC: Tensor) -> Tensor:
    unit = normalize(features_BMPC, dim=-1)
    return exact_product(unit, unit.transpose(-1, -2))

"""Cross-head distillation: the student's BEV map through the frozen teacher's decoder.

After CrossKD (arXiv 2306.11369), which sends a student's features through a teacher's head, and DualDistill, which does
so with BEV detectors. The teacher's decoder reads the student's map F_S with queries that start where the teacher's own
did; in every decoder layer each of them learns what the teacher's said in the end:

    class = sum_i KL(c_i, c^S_i) / max(sum_i q_i, 1),   box = sum_i q_i |b_i - b^S_i|_1 / max(sum_i q_i, 1)

with q_i the highest class score of the teacher's query, so that no matching is needed. Where the decoder chooses its
queries on a class heatmap, the two heatmaps are compared as the classes are. Layers are summed and items averaged.

Gradients pass through the decoder, which does not move, to the student's map: it learns what the decoder reads of the
teacher's, rather than each of its features. A decoder of maps of several scales samples the finest alone, at the
places where it sampled the others (`training.weights.inherit`).
The optional adapter, a matrix on the channels that stays (semi-)orthogonal, lets the student's map have axes of its
own, but neither scales nor mixes what it holds.
"""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from bevdistill_ros.model.records import SetPrediction, StudentOutput
from training.data.sample import Batch
from training.distill.base import Distiller, DistillShapes, MethodConfig, Weight, student_map
from training.distill.queries import class_divergence, code_distance
from training.teacher.output import TeacherOutput
from training.weights.inherit import on_finest_map

CrossAdapter = Literal["none", "orthogonal"]


class OrthogonalAdapter(nn.Module):
    """Turns the channels of a map (B, C, h, w) by a matrix that stays (semi-)orthogonal; the identity at first."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        turn = nn.Linear(in_channels, out_channels, bias=False)
        nn.init.eye_(turn.weight)
        self.turn = orthogonal(turn)

    def forward(self, bev: Tensor) -> Tensor:
        """The turned map (B, out_channels, h, w)."""
        turned: Tensor = self.turn(bev.movedim(1, -1))
        return turned.movedim(-1, 1)


@dataclass(frozen=True, kw_only=True)
class CrossHeadConfig(MethodConfig):
    """Settings of cross-head distillation."""

    class_weight: Weight = "auto"
    box_weight: Weight = "auto"  # [1/m]
    adapter: CrossAdapter = "orthogonal"  # of the student's map; none needs maps of the same channels
    velocity_weight: float = 0.2  # of vx and vy inside the box term

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adapter not in get_args(CrossAdapter):
            raise ValueError(f"cross_head.adapter must be none or orthogonal, but is {self.adapter!r}")

    def terms(self) -> dict[str, str]:
        return {"cross_class": "class_weight", "cross_box": "box_weight"}

    def build(self, shapes: DistillShapes) -> "CrossHead":
        return CrossHead(self, shapes)


class CrossHead(Distiller):
    """Imitation of what the teacher's decoder makes of the teacher's map.

    Raises:
        ValueError: Without an adapter the maps must have the same channels.
    """

    def __init__(self, config: CrossHeadConfig, shapes: DistillShapes) -> None:
        super().__init__()
        student_channels, teacher_channels = shapes.student_channels, shapes.teacher_channels
        if config.adapter == "none" and student_channels != teacher_channels:
            raise ValueError(
                f"the teacher's decoder reads {teacher_channels} channels, but the student's map has "
                f"{student_channels}; set distill.cross_head.adapter to orthogonal"
            )
        self.adapter: nn.Module = nn.Identity()
        if config.adapter == "orthogonal":
            self.adapter = OrthogonalAdapter(student_channels, teacher_channels)
        self._head = (
            on_finest_map(shapes.decoder_for("cross_head")),
        )  # in a tuple, so that it is neither saved nor trained
        self._config, self._grid = config, shapes.grid

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return {"cross_class", "cross_box"}."""
        target = teacher.predictions
        assert target is not None, "a teacher with a decoder of ours has queries"
        crossed = self._head[0]([self.adapter(student_map(student, teacher, grid=self._grid))], target.heatmap)
        logits, codes = target.logits[-1:].detach().float(), target.codes[-1:].detach().float()
        quality_LBQ = logits.sigmoid().amax(dim=-1)
        divergence_LBQ = class_divergence(crossed.logits.float(), logits)
        error_LBQ = code_distance(crossed.codes.float(), codes, self._config.velocity_weight)
        return {
            "cross_class": _per_object(divergence_LBQ, quality_LBQ) + _heatmap_divergence(crossed, target),
            "cross_box": _per_object(quality_LBQ * error_LBQ, quality_LBQ),
        }

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Take the decoder along to another device."""
        self._head[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _per_object(values: Tensor, quality: Tensor) -> Tensor:
    """Sum (L, B, ...) over queries by the number of objects that the teacher sees; mean over items, sum over layers."""
    total, count = (entry.flatten(2).sum(dim=-1) for entry in (values, quality))
    return (total / count.clamp(min=1.0)).mean(dim=1).sum()


def _heatmap_divergence(crossed: SetPrediction, target: SetPrediction) -> Tensor:
    """The same of the heatmaps that chose the queries, whose objects are counted by the last layer's; 0 without."""
    if crossed.heatmap is None or target.heatmap is None:
        return crossed.logits.new_zeros(())
    divergence = class_divergence(crossed.heatmap.movedim(1, -1), target.heatmap.movedim(1, -1))
    return _per_object(divergence[None], target.logits[-1:].float().sigmoid().amax(dim=-1))

"""What a distillation method is, and what all of them check before they compare a student with a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.precision import full_precision
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.records import StudentOutput
from training.data.sample import Batch
from training.teacher.output import Tap, TeacherOutput

Weight = float | str  # of a term: a number, auto (see training.run.balance), or the name of a published one


@dataclass(frozen=True, kw_only=True)
class DistillShapes:
    """What a distiller must know of the two models."""

    grid: BevGrid  # of both BEV maps
    student_channels: int  # of the student's BEV map
    teacher_channels: int  # of the teacher's BEV map
    student_feature_dim: int  # of the student's query features
    teacher_feature_dim: int  # of the teacher's query features
    teacher_decoder: SetDecoder | None = None  # None for a teacher that has none of ours
    shares_decoder: bool = False  # the student's decoder starts as the teacher's, so it reads maps like the teacher's

    def decoder_for(self, method: str) -> SetDecoder:
        """The teacher's decoder, which a method needs; a ValueError where there is none."""
        if self.teacher_decoder is None:
            raise ValueError(
                f"{method} needs a teacher with a decoder of ours, which a detector of mmdet3d has not; choose "
                "distill.method bevdistill"
            )
        return self.teacher_decoder


class Distiller(nn.Module, ABC):
    """Compares a student with a teacher; owns whatever layers the comparison needs.

    Gradients reach the student and the distiller's own layers, never the teacher.
    """

    @abstractmethod
    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the unweighted terms as named scalars; a batch gives the mean of what its items give alone."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """Settings of one method; its fields that end in `weight` are factors of the loss and must not be negative.

    Not an abstract class, since the command line takes the fields of plain dataclasses only.
    """

    emphasis: float = 1.0  # part of `distill.share` that each balanced term gets, relative to those of other methods

    # Published weights of a field, by whose they are.
    published: ClassVar[Mapping[str, Mapping[str, float]]] = {}

    def __post_init__(self) -> None:
        if self.emphasis <= 0:
            raise ValueError(f"{type(self).__name__}.emphasis must be above 0, but is {self.emphasis}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not entry.name.endswith("weight") or value == "auto":
                continue
            if isinstance(value, str) and value not in self.published.get(entry.name, {}):
                known = ", ".join(["auto", "a number", *self.published.get(entry.name, {})])
                raise ValueError(f"{type(self).__name__}.{entry.name} must be one of {known}, but is {value}")
            if not isinstance(value, str) and value < 0:
                raise ValueError(f"{type(self).__name__}.{entry.name} must not be negative, but is {value}")

    def weights(self) -> dict[str, float | None]:
        """The factor of each term that the distiller returns, by its name; None for one that is balanced."""
        return {term: self._factor(name) for term, name in self.terms().items()}

    def terms(self) -> dict[str, str]:
        """The terms that the distiller returns, each with the name of the field that is its weight."""
        raise NotImplementedError

    def tap_read(self) -> Tap | None:
        """Which map of the teacher the distiller reads; None for none."""
        tap: Tap | None = getattr(self, "tap", None)
        return tap

    def build(self, shapes: DistillShapes) -> Distiller:
        """Make the distiller."""
        raise NotImplementedError

    def _factor(self, name: str) -> float | None:
        value: Weight = getattr(self, name)
        if value == "auto":
            return None
        return self.published[name][value] if isinstance(value, str) else value


class CompositeDistiller(Distiller):
    """The terms of several distillers side by side; of none, no terms.

    Args:
        parts: Distillers by name; their terms must have different names.
    """

    def __init__(self, parts: Mapping[str, Distiller]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(self, student: StudentOutput, teacher: TeacherOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the union of the parts' terms."""
        losses: dict[str, Tensor] = {}
        for part in self.parts.values():
            terms: dict[str, Tensor] = part(student, teacher, batch)
            assert losses.keys().isdisjoint(terms), f"two parts return {losses.keys() & terms.keys()}"
            losses |= terms
        return losses


def bev_pair(student: StudentOutput, teacher: TeacherOutput, *, grid: BevGrid, tap: Tap) -> tuple[Tensor, Tensor]:
    """The two maps to compare.

    Args:
        student: Its map is compared.
        teacher: One of its maps is compared, without gradient.
        grid: The grid that both must live on; nothing is interpolated.
        tap: Which map of the teacher: after its encoder, its finest level before that, or the first that it has.

    Returns:
        Student map (B, Cs, rows, cols) and teacher map (B, Ct, rows, cols), float32.

    Raises:
        ValueError: The grids differ, or the teacher has no such map.
    """
    teacher_map = teacher.map_of(tap).detach()
    return student_map(student, teacher, grid=grid), _on_grid("teacher", teacher_map, grid)


def student_map(student: StudentOutput, teacher: TeacherOutput, *, grid: BevGrid) -> Tensor:
    """The student's map (B, Cs, rows, cols), float32, for what lives on the teacher's grid.

    Raises:
        ValueError: The grids differ.
    """
    if teacher.grid != grid:
        raise ValueError(
            f"teacher and student must share a BEV grid, but the teacher has {teacher.grid} and the student {grid}; "
            "train one on the other's grid, or choose set2set, which compares no maps"
        )
    return _on_grid("student", student.bev, grid)


def _on_grid(name: str, bev: Tensor, grid: BevGrid) -> Tensor:
    if tuple(bev.shape[-2:]) != (grid.rows, grid.cols):
        raise ValueError(
            f"the {name}'s BEV map has {tuple(bev.shape[-2:])} cells, but its grid {(grid.rows, grid.cols)}"
        )
    return bev.float()


def identity_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as the identity on the channels that both sides have, and as zero elsewhere."""
    layer = nn.Conv2d(in_channels, out_channels, 1)
    nn.init.dirac_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def exact_product(first: Tensor, second: Tensor) -> Tensor:
    """Matrix product in the precision of its factors, where autocast and TF32 would round small differences away."""
    with full_precision(first.device.type):
        return first @ second

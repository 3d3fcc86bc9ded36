"""From a configuration to a distiller.

A new method is one file, one test, and one line in `DistillConfig`.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Literal

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.plain import check_at_least
from bevdistill_ros.model.decoder import SetDecoder
from training.distill.base import CompositeDistiller, DistillShapes, MethodConfig, Tap
from training.distill.bevdistill_dense import BevDistillDenseConfig
from training.distill.bevdistill_sparse import BevDistillSparseConfig
from training.distill.cross_head import CrossHeadConfig
from training.distill.fitnet import FitNetConfig
from training.distill.label_teacher import LabelTeacherConfig
from training.distill.monodistill import MonoDistillConfig
from training.distill.set2set import Set2SetConfig
from training.distill.unidistill import UniDistillConfig
from training.distill.uvtr import UvtrConfig


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Which method, and the settings of each, whose names are those of the methods."""

    method: str = "none"  # none, one of those below or of RECIPES, or several, as fitnet+cross_head
    # How terms of weight auto are balanced: by their share of detection's gradient, or by learned uncertainties.
    balance: Literal["share", "uncertainty"] = "share"
    share: float = 2.0  # gradient of all balanced terms together at the BEV map, relative to that of detection
    # What of the student starts as the teacher's; auto: its decoder, where it fits, with the methods of INHERITING and
    # no other weights to start from.
    inherit: Literal["auto", "none", "decoder"] = "auto"
    balance_every: int = 20  # steps between two measurements of these gradients
    every: int = 1  # distil in one of so many steps, and in those that are measured; costs as much less
    fitnet: FitNetConfig = field(default_factory=FitNetConfig)
    set2set: Set2SetConfig = field(default_factory=Set2SetConfig)
    monodistill: MonoDistillConfig = field(default_factory=MonoDistillConfig)
    uvtr: UvtrConfig = field(default_factory=UvtrConfig)
    unidistill: UniDistillConfig = field(default_factory=UniDistillConfig)
    bevdistill_dense: BevDistillDenseConfig = field(default_factory=BevDistillDenseConfig)
    bevdistill_sparse: BevDistillSparseConfig = field(default_factory=BevDistillSparseConfig)
    cross_head: CrossHeadConfig = field(default_factory=CrossHeadConfig)
    label_teacher: LabelTeacherConfig = field(default_factory=LabelTeacherConfig)

    def __post_init__(self) -> None:
        chosen = self.method.split("+")
        if unknown := [name for name in chosen if name not in METHODS]:
            raise ValueError(f"distill.method must be one of {', '.join(METHODS)}, but is {unknown[0]}")
        if "none" in chosen and len(chosen) > 1:
            raise ValueError(f"distill.method {self.method} has none among others; leave one out")
        check_at_least(self, "distill", 1, "balance_every", "every")
        if self.balance == "uncertainty" and self.every > 1:
            raise ValueError(
                "distill.balance uncertainty learns in each step: set distill.every to 1, or balance to share"
            )
        if self.share <= 0:
            raise ValueError(f"distill.share must be above 0, but is {self.share}; no distillation is method none")

    def inherits_decoder(self, *, from_scratch: bool) -> bool:
        """Whether the student's decoder is to start as the teacher's, in a run with or without other weights."""
        expected = from_scratch and bool(set(INHERITING) & set(self.method.split("+")))
        return self.inherit == "decoder" or (self.inherit == "auto" and expected)

    def parts(self) -> dict[str, MethodConfig]:
        """Settings of the methods that are to run, by name."""
        return {name: getattr(self, name) for name in parts_of(self.method)}

    def taps(self) -> set[Tap]:
        """The teacher's maps that the methods read."""
        return {tap for part in self.parts().values() if (tap := part.tap_read()) is not None}


RECIPES: dict[str, tuple[str, ...]] = {  # methods that are several others together
    "bevdistill": ("bevdistill_dense", "bevdistill_sparse"),
    "bevdistill_plus": ("bevdistill_dense", "cross_head"),
}
INHERITING = ("bevdistill", "bevdistill_dense", "bevdistill_plus", "cross_head")
METHODS: tuple[str, ...] = (
    "none",
    *(entry.name for entry in fields(DistillConfig) if entry.default is MISSING),  # what has settings of its own
    *RECIPES,
)


def parts_of(method: str) -> list[str]:
    """Names of the single methods that a method, a recipe or several of them with a plus between stand for."""
    chosen = [] if method == "none" else method.split("+")
    return list(dict.fromkeys(part for name in chosen for part in RECIPES.get(name, (name,))))


def build_distiller(
    config: DistillConfig,
    *,
    grid: BevGrid,
    student_channels: int,
    teacher_channels: int,
    student_feature_dim: int | None = None,
    teacher_feature_dim: int | None = None,
    teacher_decoder: SetDecoder | None = None,
    shares_decoder: bool = False,
) -> CompositeDistiller:
    """Make the distiller of a configuration; of the method none, one without terms.

    Args:
        config: Method and settings.
        grid: Of both BEV maps.
        student_channels: Of the student's BEV map.
        teacher_channels: Of the teacher's BEV map.
        student_feature_dim: Size of the student's query features; None where it equals its channels.
        teacher_feature_dim: Size of the teacher's query features; None where it equals its channels.
        teacher_decoder: The teacher's, for methods that send the student's map through it.
        shares_decoder: Whether the student's starts as the teacher's.
    """
    shapes = DistillShapes(
        grid=grid,
        student_channels=student_channels,
        teacher_channels=teacher_channels,
        student_feature_dim=student_channels if student_feature_dim is None else student_feature_dim,
        teacher_feature_dim=teacher_channels if teacher_feature_dim is None else teacher_feature_dim,
        teacher_decoder=teacher_decoder,
        shares_decoder=shares_decoder,
    )
    return CompositeDistiller({name: part.build(shapes) for name, part in config.parts().items()})


def shares_of(config: DistillConfig) -> dict[str, float]:
    """Gradient norm of each balanced term relative to detection's: `share`, divided by the methods' emphasis."""
    emphasis = {
        name: part.emphasis
        for part in config.parts().values()
        for name, weight in part.weights().items()
        if weight is None
    }
    return {name: config.share * own / sum(emphasis.values()) for name, own in emphasis.items()}


def weights_of(config: DistillConfig) -> dict[str, float | None]:
    """The factor of each term that the configured distiller returns; None for one that is balanced."""
    return {name: weight for part in config.parts().values() for name, weight in part.weights().items()}

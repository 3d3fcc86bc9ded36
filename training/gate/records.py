"""What passes between the files of the gate."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from training.score.curves import Floats

Value = Callable[[Floats | None], float | None]  # weights of the scenes to a value; None where it is undefined
Verdict = Literal["pass", "fail", "undecided", "skip"]


class Unmeasurable(ValueError):
    """What the files given do not answer at all, so that the call is wrong."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A criterion and what became of it."""

    title: str
    verdict: Verdict
    passes: bool  # how it counts
    value: float | None  # None where it is undefined
    limit: str  # in words
    baseline: float | None = None
    worse: float | None = None  # by how much than the baseline; negative is better
    interval: tuple[float, float] | None = None  # of it, over scenes
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

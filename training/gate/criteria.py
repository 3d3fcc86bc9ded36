"""What `gate.yaml` asks for: criteria, read with one clear line for a mistake."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from matplotlib.path import Path as Polygon

from bevdistill_ros.core.files import read_text
from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from training.cli.settings import nearest
from training.score.by_class import THRESHOLDS
from training.score.curves import has_error
from training.score.parts import polygon_of

EACH = "each"
MAX_BYTES = 1_000_000
MAX_CRITERIA = 1000
Undecided = Literal["pass", "fail", "point"]
NoGroundTruth = Literal["fail", "skip"]
Place = Literal["map", "vehicle"]

_PART_KEYS = ("band", "region", "scene")
_LIMIT_KEYS = ("min", "max", "at_most_worse")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric: which way is better, and which keys a criterion on it may have."""

    higher_is_better: bool
    keys: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    limits: tuple[str, ...] = _LIMIT_KEYS
    needs_truth: bool = False


_SCORED = ("class", *_PART_KEYS)
ERRORS = {short: name for name, short in ERROR_NAMES.items()}  # what papers write: the devkit's name
METRICS: dict[str, Metric] = {
    "NDS": Metric(higher_is_better=True, keys=_PART_KEYS, needs_truth=True),
    "mAP": Metric(higher_is_better=True, keys=_PART_KEYS, needs_truth=True),
    "AP": Metric(higher_is_better=True, keys=(*_SCORED, "threshold"), required=("class",), needs_truth=True),
    **{name: Metric(higher_is_better=False, keys=_SCORED, needs_truth=True) for name in ERRORS},
    "recall": Metric(
        higher_is_better=True,
        keys=(*_SCORED, "threshold", "at_precision"),
        required=("class", "at_precision"),
        needs_truth=True,
    ),
    "latency_aware_NDS": Metric(higher_is_better=True, needs_truth=True),
    "latency_aware_mAP": Metric(higher_is_better=True, needs_truth=True),
    "latency": Metric(higher_is_better=False, keys=("stage", "percentile"), required=("stage", "percentile")),
    "drop_share": Metric(higher_is_better=False),
    "boxes_per_frame": Metric(higher_is_better=False, keys=("class",), limits=("min", "max")),
    "mean_boxes": Metric(higher_is_better=False, keys=("class",), limits=("min", "max")),
    "flicker": Metric(higher_is_better=False, keys=("class",), limits=("max", "at_most_worse")),
    "score_shift": Metric(higher_is_better=False, keys=("class",), limits=("max",)),
    "ghosts": Metric(
        higher_is_better=False, keys=("class", "area", "frame", "score"), required=("area",), limits=("max",)
    ),
}


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """How much worse than the baseline is allowed."""

    amount: float  # in the metric's unit, or a share of the baseline's value
    relative: bool

    def at(self, baseline: float) -> float:
        """In the metric's unit."""
        return self.amount * abs(baseline) if self.relative else self.amount

    def __str__(self) -> str:
        return f"{self.amount:.3g}" if not self.relative else f"{self.amount * 100:.3g} %"


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One line of a gate; what it is not about is None."""

    metric: str
    name: str = ""  # what the user calls it
    class_name: str | None = None
    band: str | None = None
    region: str | None = None
    scene: str | None = None
    threshold: float | None = None  # [m]
    at_precision: float | None = None
    stage: str | None = None
    percentile: float | None = None
    area: Polygon | None = None  # [m]
    frame: Place = "map"  # of the area
    score: float = 0.0  # least score of a box that counts in an area
    min: float | None = None
    max: float | None = None
    at_most_worse: Allowed | None = None

    @property
    def kind(self) -> Metric:
        """Of its metric."""
        return METRICS[self.metric]

    @property
    def title(self) -> str:
        """What it is about, in words."""
        parts = [self.metric]
        if self.percentile is not None:
            parts.append(f"p{self.percentile:g} of {self.stage} [ms]")
        parts += [part for part in (self.class_name, self.band, self.region, self.scene) if part]
        if self.threshold is not None:
            parts.append(f"at {self.threshold:g} m")
        if self.at_precision is not None:
            parts.append(f"at precision {self.at_precision:g}")
        title = ", ".join(parts)
        return f"{self.name}: {title}" if self.name else title


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Criteria, and how doubt is counted."""

    criteria: tuple[Criterion, ...]
    undecided: Undecided = "pass"
    no_ground_truth: NoGroundTruth = "fail"
    samples: int = 1000  # of the bootstrap
    confidence: float = 0.95  # of its interval
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a report has, for criteria that name it or say `each`."""

    bands: tuple[str, ...]
    regions: tuple[str, ...]
    scenes: tuple[str, ...]
    has: Callable[[Criterion], bool]  # whether it has ground truth of a criterion's class in its part


def read_gate(path: Path, known: Known) -> Gate:
    """Read a gate.

    Args:
        path: YAML.
        known: What criteria may name.

    Raises:
        ValueError: It can't be read, or a criterion can't be measured; in one line.
    """
    try:
        content = yaml.safe_load(read_text(path, what="gate", max_bytes=MAX_BYTES))
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"gate {path} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    try:
        return _gate(_mapping(content, "it"), known)
    except ValueError as error:
        raise ValueError(f"gate {path}: {error}") from error


def _gate(content: Mapping[str, Any], known: Known) -> Gate:
    _check_keys(content, ("criteria", "undecided", "no_ground_truth", "bootstrap"))
    lines = content.get("criteria")
    if not isinstance(lines, list) or not lines:
        raise ValueError("criteria must be a list of at least one criterion, such as `- {metric: NDS, min: 0.3}`")
    bootstrap = _mapping(content.get("bootstrap", {}), "bootstrap")
    _check_keys(bootstrap, ("samples", "confidence", "seed"))
    criteria: list[Criterion] = []
    for number, line in enumerate(lines, start=1):
        try:
            criteria += _criteria(_mapping(line, "it"), known)
        except ValueError as error:
            raise ValueError(f"criterion {number}: {error}") from error
        if len(criteria) > MAX_CRITERIA:
            raise ValueError(f"it has more than {MAX_CRITERIA} criteria")
    return Gate(
        criteria=tuple(criteria),
        undecided=cast("Undecided", _choice(content, "undecided", ("pass", "fail", "point"))),
        no_ground_truth=cast("NoGroundTruth", _choice(content, "no_ground_truth", ("fail", "skip"))),
        samples=int(_number(bootstrap.get("samples", 1000), "bootstrap.samples", 20, 100_000)),
        confidence=_number(bootstrap.get("confidence", 0.95), "bootstrap.confidence", 0.5, 0.999),
        seed=int(_number(bootstrap.get("seed", 0), "bootstrap.seed", 0, 2**32 - 1)),
    )


def _criteria(line: Mapping[str, Any], known: Known) -> list[Criterion]:
    """The criteria of a line, one for each of the classes and parts that it lists."""
    name = line.get("metric")
    if name not in METRICS:
        close = nearest(str(name), list(METRICS))
        raise ValueError(f"unknown metric '{name}'{close or '; known are ' + ', '.join(METRICS)}")
    metric = METRICS[name]
    _check_keys(line, ("metric", "name", *metric.keys, *metric.limits), f"a criterion on {name}")
    if missing := [key for key in metric.required if key not in line]:
        raise ValueError(f"{name} needs {', '.join(missing)}")
    limits = {key: line[key] for key in metric.limits if key in line}
    if name == "ghosts":
        limits.setdefault("max", 0)
    if not limits:
        raise ValueError(f"{name} needs one of {', '.join(metric.limits)}")
    if len([key for key in _PART_KEYS if key in line]) > 1:
        raise ValueError("it may name a band, a region or a scene, but not two of them")
    parts = [_names(line, key, getattr(known, f"{key}s")) for key in _PART_KEYS]
    shared = _shared(name, line, limits)
    found = [
        Criterion(class_name=class_name, band=band, region=region, scene=scene, **shared)
        for class_name in _classes(name, line)
        for band, region, scene in product(*parts)
    ]
    if line.get("class") == EACH:
        found = [criterion for criterion in found if known.has(criterion)]
        if not found:
            raise ValueError("class: each, but the report has no ground truth there")
    return found


def _classes(name: str, line: Mapping[str, Any]) -> Sequence[str | None]:
    """Classes that a line lists; for `each` those that have the metric."""
    error = ERRORS.get(name)
    listed = _names(line, "class", CLASS_NAMES)
    without = [entry for entry in listed if error and entry and not has_error(entry, error)]
    if without and line["class"] != EACH:
        raise ValueError(f"the protocol has no {name} of class '{without[0]}'")
    return [entry for entry in listed if entry not in without]


def _shared(name: str, line: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that all criteria of a line have."""
    fields: dict[str, Any] = {"metric": name, "name": str(line.get("name", ""))}
    for key in ("min", "max"):
        if key in limits:
            fields[key] = _number(limits[key], key)
    if "at_most_worse" in limits:
        fields["at_most_worse"] = _allowed(limits["at_most_worse"])
    for key, low, high in (("at_precision", 0, 1), ("percentile", 0, 100), ("score", 0, 1)):
        if key in line:
            fields[key] = _number(line[key], key, low, high)
    if "threshold" in line:
        fields["threshold"] = _number(line["threshold"], "threshold")
        if fields["threshold"] not in THRESHOLDS:
            allowed = ", ".join(f"{entry:g}" for entry in THRESHOLDS)
            raise ValueError(f"threshold must be one of {allowed} [m], but is {line['threshold']}")
    if "stage" in line:
        fields["stage"] = str(line["stage"])
    if "area" in line:
        fields["area"] = polygon_of(line["area"], "area")
        fields["frame"] = _choice(line, "frame", ("map", "vehicle"))
    return fields


def _names(line: Mapping[str, Any], key: str, known: Sequence[str]) -> Sequence[str | None]:
    """Names that a line lists under a key, or all for `each`; [None] where it has no such key."""
    if key not in line:
        return [None]
    value = line[key]
    if value == EACH:
        if not known:
            raise ValueError(f"{key}: each, but the report has none")
        return list(known)
    names = [str(entry) for entry in (value if isinstance(value, list) else [value])]
    for name in names:
        if name not in known:
            listed = f"; the report has {', '.join(known)}" if known else f"; the report has no {key}s"
            raise ValueError(f"unknown {key} '{name}'{nearest(name, list(known)) or listed}")
    if not names:
        raise ValueError(f"{key} is an empty list")
    return names


def _allowed(value: object) -> Allowed:
    if isinstance(value, str) and (share := re.fullmatch(r"\s*([0-9.]+)\s*%\s*", value)):
        return Allowed(amount=_number(float(share[1]) / 100, "at_most_worse", 0), relative=True)
    return Allowed(amount=_number(value, "at_most_worse", 0), relative=False)


def _number(value: object, key: str, low: float = -math.inf, high: float = math.inf) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= cast("float", value) <= high:
        limits = "" if math.isinf(low) else f" of at least {low:g}" if math.isinf(high) else f" in {low:g}...{high:g}"
        raise ValueError(f"{key} must be a number{limits}, but is {value!r}")
    return float(cast("float", value))


def _choice(content: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = content.get(key, allowed[0])
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, but is {value!r}")
    return str(value)


def _mapping(content: object, what: str) -> Mapping[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{what} must be a mapping, but is {str(content)[:80]!r}")
    return content


def _check_keys(content: Mapping[str, Any], known: Sequence[str], what: str = "it") -> None:
    for key in content:
        if key not in known:
            raise ValueError(
                f"{what} has the unknown key '{key}'{nearest(key, list(known)) or '; known are ' + ', '.join(known)}"
            )

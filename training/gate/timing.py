"""What a criterion asks of the report of a replay."""

from collections.abc import Mapping
from typing import Any

from training.gate.criteria import Criterion
from training.gate.records import Unmeasurable


def latency_of(timing: Mapping[str, Any], criterion: Criterion) -> float:
    """A percentile [ms] of a stage of a replay.

    Raises:
        Unmeasurable: The report has none.
    """
    stages = timing.get("latency_ms")
    if not isinstance(stages, dict) or not stages:
        raise Unmeasurable("latency needs the report of a replay; name it with --replay")
    if criterion.stage not in stages:
        raise Unmeasurable(f"the replay has no stage '{criterion.stage}'; it has {', '.join(stages)}")
    known = {f"p{key[1:]}" if key != "max" else "p100": key for key in stages[criterion.stage] if key != "count"}
    wanted = f"p{criterion.percentile:g}"
    if wanted not in known:
        raise Unmeasurable(f"the replay has no percentile {criterion.percentile:g}; it has {', '.join(known)}")
    return float(stages[criterion.stage][known[wanted]])


def drop_share_of(timing: Mapping[str, Any]) -> float:
    """Share of the sets of a replay that were not answered.

    Raises:
        Unmeasurable: The report has none.
    """
    sent = timing.get("sets_sent")
    if not isinstance(sent, int) or sent <= 0:
        raise Unmeasurable("drop_share needs the report of a replay that sent sets; name it with --replay")
    return float(timing.get("sets_lost", 0)) / sent

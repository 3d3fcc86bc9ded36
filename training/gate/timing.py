"""What a criterion asks of the report of a replay."""

from collections.abc import Mapping
from typing import Any

from training.gate.criteria import Criterion
from training.gate.records import Unmeasurable
from training.score.read import Report


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
    if not isinstance(stages[criterion.stage], dict):
        raise Unmeasurable(f"the replay's stage '{criterion.stage}' has no percentiles")
    known = {f"p{key[1:]}" if key != "max" else "p100": key for key in stages[criterion.stage] if key != "count"}
    wanted = f"p{criterion.percentile:g}"
    if wanted not in known:
        raise Unmeasurable(f"the replay has no percentile {criterion.percentile:g}; it has {', '.join(known)}")
    value = stages[criterion.stage][known[wanted]]
    if not isinstance(value, int | float):
        raise Unmeasurable(f"the replay's {wanted} of '{criterion.stage}' is not a number")
    return float(value)


def drop_share_of(timing: Mapping[str, Any]) -> float:
    """Share of the sets of a replay that were not answered.

    Raises:
        Unmeasurable: The report has none.
    """
    sent = timing.get("sets_sent")
    if not isinstance(sent, int) or sent <= 0:
        raise Unmeasurable("drop_share needs the report of a replay that sent sets; name it with --replay")
    lost = timing.get("sets_lost", 0)
    if not isinstance(lost, int):
        raise Unmeasurable("the replay does not say how many sets were lost")
    return lost / sent


def latency_aware_of(report: Report, criterion: Criterion) -> float:
    """NDS or mAP of what was there in time.

    Raises:
        Unmeasurable: The report has none.
    """
    in_time = report.content.get("latency_aware", {})
    value = in_time.get("nds" if criterion.metric.endswith("NDS") else "mean_ap")
    if not isinstance(value, int | float):
        raise Unmeasurable(f"{criterion.title}: {report.path} has none; score a recording (score --bags) or a replay")
    return float(value)

"""Criteria applied to a report.

`min` and `max` judge the value as it is. `at_most_worse` judges the loss against the baseline by an interval, which a
bootstrap over scenes gives: scenes are drawn with replacement, the same ones for both reports, and the loss of each
draw is measured. The criterion fails where the whole interval is above what is allowed, and passes where none of it
is; what lies between is undecided, and counts as the gate says.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.gate.criteria import Criterion, Gate
from training.gate.detections import boxes_per_frame, flicker_of, ghosts_of, score_shift
from training.gate.records import Row, Unmeasurable, Value, Verdict
from training.gate.scores import truth_counts, value_of
from training.gate.timing import drop_share_of, latency_aware_of, latency_of
from training.score.read import Report
from training.score.schema import WHOLE

FEW_SCENES = 10  # an interval over fewer is narrower than it should be
_FLICKER = "flicker"


class Judge:
    """Judges criteria on a report.

    Args:
        gate: How doubt is counted.
        report: Of the model that is judged.
        baseline: Of the model before; None where there is none.
        timing: Report of a replay, or a report that has what it has; empty where there is none.
        baseline_timing: The same of the model before.

    Raises:
        Unmeasurable: The reports are not of the same scenes and ground truth.
    """

    def __init__(
        self,
        gate: Gate,
        report: Report,
        baseline: Report | None,
        timing: Mapping[str, Any],
        baseline_timing: Mapping[str, Any],
    ) -> None:
        self._gate = gate
        self._report = report
        self._baseline = baseline
        self._timing = timing
        self._baseline_timing = baseline_timing
        if baseline is not None:
            _check_comparable(report, baseline)
        random = np.random.default_rng(gate.seed)
        count = len(report.scenes)
        draws = random.multinomial(count, np.full(count, 1 / count), size=gate.samples)
        # Of few scenes the same draw comes often, and is measured once.
        self._draws, self._places = np.unique(draws.astype(float), axis=0, return_inverse=True)

    def judge(self, criterion: Criterion) -> list[Row]:
        """A row for each limit of the criterion.

        Raises:
            Unmeasurable: The files given do not answer it.
        """
        if criterion.at_most_worse is not None and self._baseline is None and not self._is_timing(criterion):
            raise Unmeasurable(f"{criterion.title}: at_most_worse needs --baseline")
        match criterion.metric:
            case "latency" | "drop_share":
                return self._timed(criterion)
            case "boxes_per_frame" | "mean_boxes":
                return self._counted(criterion)
            case "ghosts":
                count, note = ghosts_of(self._report, criterion)
                return self._absolute(criterion, float(count), note)
            case "latency_aware_NDS" | "latency_aware_mAP":
                return self._in_time(criterion)
            case "score_shift":
                return self._shifted(criterion)
            case "flicker":
                baseline = flicker_of(self._baseline, criterion) if self._baseline is not None else None
                return self._measured(criterion, flicker_of(self._report, criterion), baseline)
            case _:
                return self._scored(criterion)

    def _is_timing(self, criterion: Criterion) -> bool:
        return criterion.metric in ("latency", "drop_share")

    def _scored(self, criterion: Criterion) -> list[Row]:
        if not self._report.is_scored:
            raise Unmeasurable(f"{criterion.title}: {self._report.path} has no scores, as there was no ground truth")
        if not truth_counts(self._report, criterion):
            skips = self._gate.no_ground_truth == "skip"
            verdict: Verdict = "skip" if skips else "fail"
            note = "no ground truth"
            return [
                Row(
                    title=criterion.title,
                    verdict=verdict,
                    passes=skips,
                    value=None,
                    limit=_limits(criterion),
                    note=note,
                )
            ]
        baseline = value_of(self._baseline, criterion) if self._baseline is not None else None
        return self._measured(criterion, value_of(self._report, criterion), baseline)

    def _measured(self, criterion: Criterion, value: Value, baseline: Value | None) -> list[Row]:
        """Rows of what can be measured with any weights of the scenes."""
        now = value(None)
        rows = self._absolute(criterion, now, "" if now is not None else "nothing to measure")
        if criterion.at_most_worse is None or baseline is None:
            return rows
        before = baseline(None)
        if now is None or before is None:
            return [*rows, _failed(criterion, now, f"at most {criterion.at_most_worse} worse", "nothing to measure")]
        interval = None if criterion.scene else self._interval(criterion, value, baseline)
        return [*rows, self._compared(criterion, now, before, interval)]

    def _interval(self, criterion: Criterion, value: Value, baseline: Value) -> tuple[float, float] | None:
        """Interval of the loss over scenes; None where there are too few."""
        if len(self._report.scenes) < 2:
            return None
        measured = np.full(len(self._draws), np.nan)
        for place, weights in enumerate(self._draws):
            now, before = value(weights), baseline(weights)
            if now is not None and before is not None:
                measured[place] = _loss(criterion, now, before)
        losses = measured[self._places]
        losses = losses[~np.isnan(losses)]
        if len(losses) < self._gate.samples / 2:
            return None
        tail = (1 - self._gate.confidence) / 2
        low, high = np.quantile(losses, [tail, 1 - tail])
        return float(low), float(high)

    def _compared(self, criterion: Criterion, now: float, before: float, interval: tuple[float, float] | None) -> Row:
        assert criterion.at_most_worse is not None, "only then it is compared"
        allowed = criterion.at_most_worse.at(before)
        loss = _loss(criterion, now, before)
        low, high = interval or (loss, loss)
        tolerance = 1e-9
        verdict: Verdict = "undecided"
        if low > allowed + tolerance:
            verdict = "fail"
        elif high <= allowed + tolerance:
            verdict = "pass"
        counts = {"pass": True, "fail": False, "point": loss <= allowed + tolerance}[self._gate.undecided]
        notes = []
        if interval is None and not self._is_timing(criterion):
            notes.append("one scene, no interval" if criterion.scene or len(self._report.scenes) < 2 else "no interval")
        elif interval is not None and len(self._report.scenes) < FEW_SCENES:
            notes.append(f"{len(self._report.scenes)} scenes only")
        if verdict == "undecided":
            notes.append("counts as passed" if counts else "counts as failed")
        return Row(
            title=criterion.title,
            verdict=verdict,
            passes=counts if verdict == "undecided" else verdict == "pass",
            value=now,
            limit=f"at most {criterion.at_most_worse} worse",
            baseline=before,
            worse=loss,
            interval=interval,
            note=", ".join(notes),
        )

    def _absolute(self, criterion: Criterion, value: float | None, note: str = "") -> list[Row]:
        """Rows of `min` and `max`."""
        rows = []
        for words, limit, passes in (
            ("at least", criterion.min, value is not None and criterion.min is not None and value >= criterion.min),
            ("at most", criterion.max, value is not None and criterion.max is not None and value <= criterion.max),
        ):
            if limit is not None:
                row = Row(title=criterion.title, verdict="fail", passes=passes, value=value, limit=f"{words} {limit:g}")
                rows.append(replace(row, verdict="pass" if passes else "fail", note=note))
        return rows

    def _counted(self, criterion: Criterion) -> list[Row]:
        counts = boxes_per_frame(self._report, criterion)
        if criterion.metric == "mean_boxes":
            return self._absolute(criterion, float(counts.mean()))
        rows = []
        for key, worst in (("min", counts.argmin()), ("max", counts.argmax())):
            limit = getattr(criterion, key)
            frame = f"{self._report.frames['scene'][worst]}, {self._report.frames['token'][worst]}"
            alone = Criterion(
                metric=criterion.metric, name=criterion.name, class_name=criterion.class_name, **{key: limit}
            )
            rows += self._absolute(alone, float(counts[worst]), frame) if limit is not None else []
        return rows

    def _shifted(self, criterion: Criterion) -> list[Row]:
        if self._baseline is None:
            raise Unmeasurable(f"{criterion.title} needs --baseline")
        shift = score_shift(self._report, self._baseline, criterion)
        return self._absolute(criterion, shift, "no detections" if shift is None else "")

    def _timed(self, criterion: Criterion) -> list[Row]:
        def measure(timing: Mapping[str, Any]) -> float:
            return latency_of(timing, criterion) if criterion.metric == "latency" else drop_share_of(timing)

        if criterion.at_most_worse is not None and not self._baseline_timing:
            raise Unmeasurable(f"{criterion.title}: at_most_worse needs --baseline_replay")
        now = measure(self._timing)
        rows = self._absolute(criterion, now)
        if criterion.at_most_worse is not None:
            rows.append(self._compared(criterion, now, measure(self._baseline_timing), None))
        return rows

    def _in_time(self, criterion: Criterion) -> list[Row]:
        now = latency_aware_of(self._report, criterion)
        rows = self._absolute(criterion, now)
        if criterion.at_most_worse is not None and self._baseline is not None:
            rows.append(self._compared(criterion, now, latency_aware_of(self._baseline, criterion), None))
        return rows


def _loss(criterion: Criterion, now: float, before: float) -> float:
    """By how much it is worse."""
    return before - now if criterion.kind.higher_is_better else now - before


def _limits(criterion: Criterion) -> str:
    limits = [
        f"at least {criterion.min:g}" if criterion.min is not None else "",
        f"at most {criterion.max:g}" if criterion.max is not None else "",
        f"at most {criterion.at_most_worse} worse" if criterion.at_most_worse is not None else "",
    ]
    return ", ".join(filter(None, limits))


def _failed(criterion: Criterion, value: float | None, limit: str, note: str) -> Row:
    return Row(title=criterion.title, verdict="fail", passes=False, value=value, limit=limit, note=note)


def _check_comparable(report: Report, baseline: Report) -> None:
    """Raise Unmeasurable where two reports are not of the same scenes and ground truth."""
    paths = f"{report.path} and {baseline.path} can't be compared"
    if report.scenes != baseline.scenes:
        other = sorted(set(report.scenes) ^ set(baseline.scenes))[0]
        raise Unmeasurable(f"{paths}: only one of them has scene '{other}'; score both on the same split")
    if not (report.is_scored and baseline.is_scored):
        return
    ours, theirs = report.matches(WHOLE), baseline.matches(WHOLE)
    for name in CLASS_NAMES:
        if (ours[name].truth != theirs[name].truth).any():
            scene = report.scenes[int(np.flatnonzero(ours[name].truth != theirs[name].truth)[0])]
            raise Unmeasurable(
                f"{paths}: their ground truth differs ({name} in scene '{scene}'); score the results of both again"
            )

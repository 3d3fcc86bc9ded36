"""`bevdistill gate`: whether a report meets the criteria of a gate, as table, JUnit XML and exit status."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bevdistill_ros.core.files import write_whole
from training.cli.ending import Ending, WrongCall
from training.gate.criteria import Known, read_gate
from training.gate.judge import Judge
from training.gate.junit import junit_of
from training.gate.records import Row
from training.gate.scores import truth_counts
from training.score.read import Report, read_json, read_report
from training.score.schema import BANDS, REGIONS


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What `bevdistill gate` judges; exit status 0 where all criteria pass, 1 where one fails, 2 for a wrong call."""

    gate: Path  # YAML of the criteria
    report: Path  # report.json of `bevdistill score`, of the model that is judged
    baseline: Path | None = None  # the same of the model before, for `at_most_worse` and `score_shift`
    replay: Path | None = None  # report.json of `bevdistill replay`, for latency and drop_share
    baseline_replay: Path | None = None  # the same of the model before
    junit: Path | None = None  # JUnit XML to write
    output: Path | None = None  # JSON to write, for `bevdistill report --gate`


def run_gate(config: GateConfig) -> str:
    """Judge; returns the table where all criteria pass.

    Raises:
        Ending: A criterion fails; with the table and status 1.
        WrongCall: The gate or a report can't be read, or they do not fit together.
    """
    try:
        rows = _judged(config)
    except ValueError as error:
        raise WrongCall(str(error)) from error
    failed = [row for row in rows if not row.passes]
    if config.junit is not None:
        write_whole(config.junit, junit_of(rows, str(config.gate)))
    if config.output is not None:
        content = {"gate": str(config.gate), "passed": not failed, "rows": [row.to_dict() for row in rows]}
        write_whole(config.output, json.dumps(content, indent=1, allow_nan=False))
    text = f"{table(rows)}\n\n{_summary(rows)}"
    if failed:
        raise Ending(text, status=1)
    return text


def _judged(config: GateConfig) -> list[Row]:
    report = read_report(config.report)
    baseline = read_report(config.baseline) if config.baseline is not None else None
    gate = read_gate(config.gate, _known(report, baseline))
    judge = Judge(gate, report, baseline, _timing(config.replay, report), _timing(config.baseline_replay, baseline))
    return [row for criterion in gate.criteria for row in judge.judge(criterion)]


def _timing(path: Path | None, report: Report | None) -> dict[str, Any]:
    """Report of a replay; where none is named, what the report itself has of one."""
    if path is not None:
        content = read_json(path)
        timing = content.get("timing", content)  # reports of older replays have it at the top
        return timing if isinstance(timing, dict) else {}
    own = report.content if report is not None else {}
    return dict(own.get("timing", {}))


def _known(report: Report, baseline: Report | None) -> Known:
    def parts(group: str) -> tuple[str, ...]:
        ours = report.parts(group)
        return ours if baseline is None else tuple(name for name in ours if name in baseline.parts(group))

    return Known(
        bands=parts(BANDS),
        regions=parts(REGIONS),
        scenes=report.scenes,
        has=lambda criterion: not report.is_scored or truth_counts(report, criterion) > 0,
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as text, failures first."""
    width = max(len(row.title) for row in rows)
    lines = [f"{'':<10}{'criterion':<{width}}  {'value':>8}  {'limit':<22}{'baseline':>9}  {'worse by':<28}note"]
    for row in sorted(rows, key=lambda row: row.passes):
        loss = "" if row.worse is None else f"{row.worse:+.4f}"
        if row.interval is not None:
            loss += f" [{row.interval[0]:+.4f}, {row.interval[1]:+.4f}]"
        lines.append(
            f"{row.verdict.upper():<10}{row.title:<{width}}  {_number(row.value):>8}  {row.limit:<22}"
            f"{_number(row.baseline, ''):>9}  {loss:<28}{row.note}".rstrip()
        )
    return "\n".join(lines)


def _number(value: float | None, missing: str = "-") -> str:
    return missing if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _summary(rows: Sequence[Row]) -> str:
    failed = sum(not row.passes for row in rows)
    counts = {verdict: sum(row.verdict == verdict for row in rows) for verdict in ("undecided", "skip")}
    extra = "".join(f", {count} {'skipped' if name == 'skip' else name}" for name, count in counts.items() if count)
    return f"gate {'failed' if failed else 'passed'}: {failed} of {len(rows)} rows failed{extra}"

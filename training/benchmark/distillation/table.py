"""The method table: its file, and its rows as the paper prints them."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from operator import attrgetter
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.text import aligned
from training.benchmark.distillation.intervals import Interval, gain_interval, score_interval
from training.benchmark.distillation.outcome import Outcome
from training.evaluate.metrics import Metrics


@dataclass(kw_only=True)
class Table:
    """All outcomes so far, and where they come from."""

    config: dict[str, Any]  # of the benchmark
    machine: dict[str, Any]
    teacher: Metrics
    teachers: dict[str, Metrics]  # those that some rows have instead, by name
    outcomes: list[Outcome]
    latency_ratio: float | None  # of a distilled student to its baseline, None before it is measured

    @property
    def methods(self) -> list[str]:
        """Rows that have an outcome, in order, without ablations."""
        return [row for row in self._rows if row not in self.config["ablations"]]

    @property
    def questions(self) -> dict[str, list[str]]:
        """The questions, and the rows that answer them and have an outcome."""
        asked = self.config["questions"].items()
        return {question: [row for row in rows if row in self._rows] for question, rows in asked}

    @property
    def lines(self) -> dict[str, dict[int, list[Outcome]]]:
        """Of each line of the picture of scores over training steps: the outcomes of a row, by its steps."""
        settings = {**self.config["arms"], **self.config["ablations"]}

        def steps_of(row: str) -> int:
            return int(
                {**self.config["settings"], **settings.get(row, {})}["optim.steps"]
            )  # the standard rows set none

        return {
            line: {steps_of(row): self.of(row) for row in rows if row in self._rows}
            for line, rows in self.config["lines"].items()
        }

    @property
    def _rows(self) -> list[str]:
        return list(dict.fromkeys(outcome.method for outcome in self.outcomes))

    def of(self, method: str) -> list[Outcome]:
        """Outcomes of a row."""
        return [outcome for outcome in self.outcomes if outcome.method == method]

    def baseline_of(self, method: str) -> str:
        """The row from which a row's gain is counted."""
        return str(self.config["baselines"].get(method, self.config["baseline"]))

    def teachers_of(self, methods: Sequence[str]) -> dict[str, Metrics]:
        """Teachers of these rows but the common one, by name."""
        rows = {**self.config["arms"], **self.config["ablations"]}
        names = [rows.get(method, {}).get("teacher") for method in methods]
        return {name: metrics for name, metrics in self.teachers.items() if name in names}

    def has_same_graph(self, method: str) -> bool:
        """Whether a row's exported student has the same tensors as its baseline's."""
        graphs = [outcome.graph for row in (method, self.baseline_of(method)) for outcome in self.of(row)]
        return all(graph == graphs[0] for graph in graphs)

    def write(self, path: Path) -> None:
        """Write the result file; the one before is replaced when the new one is complete."""
        content = {
            "config": self.config,
            "machine": self.machine,
            "teacher": asdict(self.teacher),
            "teachers": {name: asdict(metrics) for name, metrics in self.teachers.items()},
            "latency_ratio": self.latency_ratio,
            "runs": [asdict(outcome) for outcome in self.outcomes],
        }
        write_whole(path, json.dumps(content, indent=1) + "\n")


HEADER = (
    "method",
    "seeds",
    "NDS",
    "mAP",
    "gain NDS",
    "gain mAP",
    "over",
    "mATE",
    "mASE",
    "mAOE",
    "mAVE",
    "mAAE",
    "train",
    "memory",
    "student",
)


def rows_of(table: Table, methods: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Cells of some of the table's methods, None: of all; teachers come first where the rows differ in theirs.

    Scores are in points, mean and 95 % interval over scenes and seeds (`intervals`), and gains over the row that is
    named beside them; ± is a standard deviation over seeds, where the scenes of the runs are not known.
    Training time is a multiple of that row's, peak memory a difference to it, both medians, and where several machines
    trained, times are compared on each; the exported student is the same, or so many times as large.
    """
    others = table.teachers_of(table.methods if methods is None else methods)
    teachers = {f"LiDAR teacher {name}": metrics for name, metrics in others.items()}
    if methods is None or others:
        teachers = {"LiDAR teacher": table.teacher, **teachers}
    rows = [_teacher_cells(name, metrics) for name, metrics in teachers.items()]
    for method in table.methods if methods is None else methods:
        runs, base = table.of(method), table.of(table.baseline_of(method))
        rows.append(
            (
                method,
                str(len(runs)),
                *(_score(runs, name) for name in ("nds", "mean_ap")),
                *(_gain(runs, base, name) if runs != base else "" for name in ("nds", "mean_ap")),
                table.baseline_of(method) if runs != base else "",
                *(f"{mean(run.tp_errors[name] for run in runs):.3f}" for name in runs[0].tp_errors),
                *_costs(runs, base),
                "same" if table.has_same_graph(method) else f"{runs[0].parameters / base[0].parameters:.2f}x",
            )
        )
    return rows


def _teacher_cells(name: str, metrics: Metrics) -> tuple[str, ...]:
    errors = (f"{value:.3f}" for value in metrics.tp_errors.values())
    return (name, "", f"{100 * metrics.nds:.1f}", f"{100 * metrics.mean_ap:.1f}", "", "", "", *errors, "", "", "")


def table_text(table: Table) -> str:
    """The table, and that of each question, as text."""
    ratio = table.latency_ratio
    note = "" if ratio is None else f"\nlatency of the last row's student over that of the baseline: {ratio:.2f}"
    asked = [f"\n\n{question}\n{_aligned(table, rows)}" for question, rows in table.questions.items()]
    title = f"{table.teacher.split}, {table.teacher.num_samples} frames"
    return f"{title}\n{_aligned(table)}{note}" + "".join(asked)


def _aligned(table: Table, methods: Sequence[str] | None = None) -> str:
    return aligned([HEADER, *rows_of(table, methods)])


def paired_gains(runs: Sequence[Outcome], base: Sequence[Outcome], name: str) -> list[float]:
    """Gains in points of a score, by its name in `Outcome`, seed by seed, which share start and data order."""
    return gains_of(runs, base, attrgetter(name))


def gains_of(runs: Sequence[Outcome], base: Sequence[Outcome], score: Callable[[Outcome], float]) -> list[float]:
    """Gains in points of any score of 0...1, seed by seed; of seeds that both sides have."""
    before = {run.seed: score(run) for run in base}
    return [100 * (score(run) - before[run.seed]) for run in runs if run.seed in before]


def _score(runs: Sequence[Outcome], name: str) -> str:
    return _spread([100 * getattr(run, name) for run in runs], score_interval(runs, name))


def _gain(runs: Sequence[Outcome], base: Sequence[Outcome], name: str) -> str:
    gains = paired_gains(runs, base, name)
    return _spread(gains, gain_interval(runs, base, name), sign="+") if gains else "-"


def _spread(values: Sequence[float], interval: Interval | None, sign: str = "") -> str:
    text = f"{mean(values):{sign}.1f}"
    if interval is not None:
        low, high = interval
        return f"{text} [{low:{sign}.1f}, {high:{sign}.1f}]"
    return f"{text} ±{stdev(values):.1f}" if len(values) > 1 else text


def _costs(runs: Sequence[Outcome], base: Sequence[Outcome]) -> tuple[str, str]:
    if not base:
        return "-", "-"
    peak, peak_before = (median(run.peak_memory_bytes for run in entries) for entries in (runs, base))
    return f"{_time_ratio(runs, base):.2f}x", f"{(peak - peak_before) / 2**20:+.0f} MiB"


def _time_ratio(runs: Sequence[Outcome], base: Sequence[Outcome]) -> float:
    """Training time as a multiple of the baseline's: of seeds that one machine trained with both, if there are any."""
    before = {(run.seed, run.machine): run.train_seconds for run in base}
    paired = [(run.train_seconds, before[key]) for run in runs if (key := (run.seed, run.machine)) in before]
    if len({run.machine for run in (*runs, *base)}) > 1 and paired:
        return median(seconds / own for seconds, own in paired)
    seconds, own = (median(run.train_seconds for run in entries) for entries in (runs, base))
    return seconds / own

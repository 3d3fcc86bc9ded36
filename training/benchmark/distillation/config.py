"""What the method table compares: data, teachers, rows and seeds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.benchmark.distillation.outcome import Outcome
from training.distill.build import METHODS

Rows = dict[str, dict[str, Any]]

STANDARD_ARMS: Rows = {
    "none": {},
    "none_heatmap": {"criterion.heatmap": 1.0},  # the authors' release has a heatmap too, which helps by itself
    **{method: {"distill.method": method} for method in METHODS if method != "none"},
}


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """What `bevdistill bench distillation` trains and compares."""

    name: str = "synth"  # of the data set, for the result file distillation-<name>.json
    teacher: Path = Path("config/train/teacher_tiny.yaml")  # training configuration; trained once
    teacher_checkpoint: str = ""  # of a teacher that is trained already
    teachers: dict[str, dict[str, Any]] = field(default_factory=dict)  # more, settings over those of teacher, by name
    student: Path = Path("config/train/student_bench.yaml")  # training configuration of all students
    settings: dict[str, Any] = field(default_factory=dict)  # of all trainings that have them, over those of the files
    arms: Rows = field(default_factory=dict)  # settings of each row; `teacher: NAME` is of teachers; empty: each method
    ablations: Rows = field(default_factory=dict)  # rows that only the tables of questions show; trained last
    baseline: str = "none"  # row from which gains are counted
    baselines: dict[str, str] = field(default_factory=dict)  # for rows that have a baseline of their own
    questions: dict[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # questions of the report, and the rows that answer them
    # Of the report's picture of scores over training steps: the rows of each line, which set optim.steps.
    lines: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)  # of each row
    row_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of rows that have others than seeds
    split: str = "synth_val"  # to score; not the one that settings were tuned on
    output: Path = Path("runs/distillation")  # runs and the report; finished runs there are not repeated
    results: Path = Path("results")  # folder of the result file
    keep_results: bool = False  # train no run again that the result file has with the same settings, of any machine
    jobs: int = 1  # trainings at once
    isolate: bool = True  # each training in a process of its own, which its peak memory on a CPU needs

    @property
    def rows(self) -> Rows:
        """Settings of each row, ablations last."""
        return {**(self.arms or STANDARD_ARMS), **self.ablations}

    @property
    def runs(self) -> list[tuple[str, int]]:
        """Row and seed of every training, in order."""
        seeds = {row: self.row_seeds.get(row, self.seeds) for row in self.rows}
        every = list(dict.fromkeys(seed for own in seeds.values() for seed in own))
        return [
            (row, seed)
            for is_ablation in (False, True)
            for seed in every
            for row in self.rows
            if seed in seeds[row] and (row in self.ablations) == is_ablation
        ]

    def place_of(self, outcome: Outcome) -> tuple[int, int]:
        """Where an outcome stands among the others: by row and seed."""
        return list(self.rows).index(outcome.method), outcome.seed

    def __post_init__(self) -> None:
        self._check_names()
        for name, row in self.rows.items():
            if row.get("teacher", "") not in ("", *self.teachers):
                known = ", ".join(self.teachers) or "none"
                raise ValueError(f"row {name}: there is no teacher {row['teacher']}; teachers names {known}")
            taught = {"distill.method", "distill.inherit"} & row.keys()
            if "teacher" in row and (not taught or "teacher_checkpoint" in {**self.settings, **row}):
                raise ValueError(
                    f"row {name}: teacher needs distill.method or distill.inherit in the row, and no teacher_checkpoint"
                )
        if self.jobs > 1 and not self.isolate:
            raise ValueError("jobs above 1 need isolate: true, as one process has one stream of random numbers")
        if not all((self.seeds, *self.row_seeds.values())) or self.jobs < 1:
            raise ValueError("seeds and row_seeds must name at least one seed each, and jobs must be at least 1")

    def _check_names(self) -> None:
        asked = {name for rows in self.questions.values() for name in rows}
        drawn = {name for rows in self.lines.values() for name in rows}
        named = {self.baseline, *self.baselines.values(), *self.baselines, *self.row_seeds, *asked, *drawn}
        if unknown := named - set(self.rows):
            raise ValueError(
                f"there is no row {', '.join(sorted(unknown))}, which a baseline, row_seeds, a question or a line "
                f"names; rows are {', '.join(self.rows)}"
            )
        if endless := [name for name in sorted(drawn) if "optim.steps" not in {**self.settings, **self.rows[name]}]:
            raise ValueError(f"lines: row {endless[0]} does not set optim.steps, by which it would be drawn")
        for line, rows in self.lines.items():
            steps = [{**self.settings, **self.rows[name]}["optim.steps"] for name in rows]
            if len(set(steps)) < len(steps):
                raise ValueError(f"lines: two rows of {line} have the same optim.steps, of which one would be drawn")
        twice = set(self.arms or STANDARD_ARMS) & set(self.ablations)
        if twice:
            raise ValueError(f"ablations: {', '.join(sorted(twice))} is an arm too; choose another name")
        unasked = set(self.ablations) - asked
        if unasked:
            raise ValueError(f"ablations: no question names {', '.join(sorted(unasked))}; add one that shows it")

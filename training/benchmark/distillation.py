"""The method table: one teacher, then every method and seed from the same start, scored on the same scenes.

A run that is done is never done again, and one that was stopped goes on where it was, so the benchmark may be killed
at any time: the table comes out the same.
"""

import hashlib
import json
import logging
import platform
import signal
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from training.benchmark.distillation_report import write_report
from training.benchmark.distillation_table import Outcome, Table, table_text
from training.benchmark.inference_cost import graph_of, latency_ratio
from training.benchmark.process import Commands
from training.callbacks import CONFIG, LAST, cost_of
from training.checkpoint import config_text
from training.config import TrainConfig
from training.distill.build import METHODS
from training.evaluate.metrics import Metrics
from training.evaluate.offline import EvaluateConfig, evaluate
from training.fit import differences, fit
from training.models import trained_teacher
from training.settings import settings_from
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.whole_file import write_whole

_LOG = logging.getLogger(__name__)

STANDARD_ARMS: dict[str, dict[str, Any]] = {
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
    # Rows, settings of each; `teacher: NAME` is one of teachers. Empty is one row a method.
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Rows that only the tables of questions show; trained after the others.
    ablations: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str = "none"  # row from which gains are counted
    baselines: dict[str, str] = field(default_factory=dict)  # for rows that have a baseline of their own
    questions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what the report asks, and rows that tell
    seeds: tuple[int, ...] = (0, 1, 2)
    row_seeds: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of rows that have others than seeds
    split: str = "synth_val"  # to score; not the one that settings were tuned on
    output: Path = Path("runs/distillation")  # runs and the report; what is done there is not done again
    results: Path = Path("results")  # folder of the result file
    jobs: int = 1  # trainings at once
    isolate: bool = True  # each training in a process of its own, which its peak memory on a CPU needs

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
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

    def __post_init__(self) -> None:
        self._check_names()
        for name, row in self.rows.items():
            if row.get("teacher", "") not in ("", *self.teachers):
                known = ", ".join(self.teachers) or "none"
                raise ValueError(f"row {name}: there is no teacher {row['teacher']}; teachers names {known}")
            if "teacher" in row and ("distill.method" not in row or "teacher_checkpoint" in {**self.settings, **row}):
                raise ValueError(f"row {name}: teacher needs distill.method in the row, and no teacher_checkpoint")
        if self.jobs > 1 and not self.isolate:
            raise ValueError("jobs above 1 need isolate: true, as one process has one stream of random numbers")
        if not all((self.seeds, *self.row_seeds.values())) or self.jobs < 1:
            raise ValueError("seeds and row_seeds must name at least one seed each, and jobs must be at least 1")

    def _check_names(self) -> None:
        asked = {name for rows in self.questions.values() for name in rows}
        unknown = {self.baseline, *self.baselines.values(), *self.baselines, *self.row_seeds, *asked} - set(self.rows)
        if unknown:
            raise ValueError(
                f"there is no row {', '.join(sorted(unknown))}, which a baseline, row_seeds or a question names; rows "
                f"are {', '.join(self.rows)}"
            )
        twice = set(self.arms or STANDARD_ARMS) & set(self.ablations)
        if twice:
            raise ValueError(f"ablations: {', '.join(sorted(twice))} is an arm too; choose another name")
        unasked = set(self.ablations) - asked
        if unasked:
            raise ValueError(f"ablations: no question names {', '.join(sorted(unasked))}; add one that shows it")


def run_distillation(config: DistillationConfig) -> str:
    """Train and score what is still missing, write results and report; returns the closing text.

    Raises:
        ValueError: Settings, data or a run that is there already do not fit.
        OSError: A training failed; its log is named.
        KeyboardInterrupt: It was interrupted, or told to end; the same call goes on.
    """
    with Commands() as commands:
        return _run(config, commands)


def _run(config: DistillationConfig, commands: Commands) -> str:
    teacher = _teacher(config, commands)
    others = {
        name: _train_teacher(config, commands, f"teacher_{name}", settings)
        for name, settings in config.teachers.items()
    }
    _check_teachers(config.output, {"teacher": teacher, **others})
    trainings = {
        (row, seed): _training(config, row, seed, others.get(config.rows[row].get("teacher", ""), teacher))
        for row, seed in config.runs
    }
    data = trainings[next(iter(trainings))]
    table = Table(
        config=json.loads(json.dumps(asdict(config), default=str)),
        machine=_machine(),
        teacher=_teacher_metrics(config, "teacher_evaluation", teacher, data, data.mmdet3d),
        teachers={
            name: _teacher_metrics(config, f"teacher_{name}_evaluation", checkpoint, data, Mmdet3dConfig())
            for name, checkpoint in others.items()
        },
        outcomes=[],
        latency_ratio=None,
    )
    path = config.results / f"distillation-{config.name}.json"
    for outcome in _outcomes(config, commands, trainings):
        table.outcomes.append(outcome)
        table.outcomes.sort(key=lambda entry: (list(config.rows).index(entry.method), entry.seed))
        table.write(path)
    distilled, plain = (
        _folder(config, row, table.of(row)[0].seed) / LAST for row in (table.methods[-1], config.baseline)
    )
    table.latency_ratio = latency_ratio(distilled, plain)
    table.write(path)
    shown = trained_teacher(teacher, data.mmdet3d, grid=data.student.grid)
    page = write_report(table, config.output, teacher=shown, split=config.split)
    return f"{table_text(table)}\n\nresults: {path}\nreport: {page}"


def _teacher(config: DistillationConfig, commands: Commands) -> Path:
    """Checkpoint of the teacher of all rows that name no other."""
    if config.teacher_checkpoint:
        return Path(config.teacher_checkpoint)
    return _train_teacher(config, commands, "teacher", {})


def _train_teacher(config: DistillationConfig, commands: Commands, folder: str, changes: Mapping[str, Any]) -> Path:
    """Checkpoint of a teacher, trained where it is not there."""
    output = config.output / folder
    settings = {**_shared_settings(config, "teacher"), **changes}
    arguments = [f"--config={config.teacher}", *_words(settings), f"--run.output={output}", "--run.resume=true"]
    _train(settings_from(TrainConfig, arguments), commands if config.isolate else None, bar=True)
    return output / LAST


def _training(config: DistillationConfig, arm: str, seed: int, teacher: Path) -> TrainConfig:
    settings = {
        **_shared_settings(config, "student"),
        **{name: value for name, value in config.rows[arm].items() if name != "teacher"},
        "optim.seed": seed,
        "run.output": str(_folder(config, arm, seed)),
        "run.resume": True,
        "run.progress": False,
    }
    if config.rows[arm].get("distill.method", "none") != "none":
        settings.setdefault("teacher_checkpoint", str(teacher))
    try:
        training = settings_from(TrainConfig, [f"--config={config.student}", *_words(settings)])
    except ValueError as error:
        raise ValueError(f"row {arm}: {error}") from error
    if training.role != "student":
        raise ValueError(f"{config.student} trains a {training.role}; set student to the configuration of a student")
    return training


def _shared_settings(config: DistillationConfig, role: str) -> dict[str, Any]:
    """Settings of all trainings that this role has: a teacher takes none of the student's, and the other way round."""
    of_students = ("student.", "distill.", "criterion.", "optim.", "run.initial_weights", "run.backbone_")
    others = {"teacher": of_students, "student": ("teacher.",)}[role]
    return {name: value for name, value in config.settings.items() if not name.startswith(others)}


def _words(settings: Mapping[str, Any]) -> list[str]:
    """Command-line words of settings."""
    return [
        f"--{name}={value if isinstance(value, str) else json.dumps(value, default=str)}"
        for name, value in settings.items()
    ]


def _folder(config: DistillationConfig, arm: str, seed: int) -> Path:
    return config.output / arm / f"seed{seed}"


def _outcomes(
    config: DistillationConfig, commands: Commands, trainings: Mapping[tuple[str, int], TrainConfig]
) -> Iterator[Outcome]:
    """Outcome of every training as it comes, `jobs` at once."""

    def one(arm: str, seed: int) -> Outcome:
        return _outcome(config, commands, arm, seed, trainings[arm, seed])

    with ThreadPoolExecutor(config.jobs) as pool, tqdm(total=len(trainings), desc="runs", unit="run") as bar:
        futures = [pool.submit(one, arm, seed) for arm, seed in trainings]
        try:
            for future in as_completed(futures):
                outcome = future.result()
                bar.set_postfix_str(f"{outcome.method} seed {outcome.seed}: NDS {outcome.nds:.3f}")
                bar.update()
                yield outcome
        except BaseException:
            commands.end()
            pool.shutdown(cancel_futures=True)
            raise


def _outcome(config: DistillationConfig, commands: Commands, arm: str, seed: int, training: TrainConfig) -> Outcome:
    """Train and score one run, or read what was found before."""
    folder = _folder(config, arm, seed)
    _check_same(folder, training)
    found = folder / f"outcome-{config.split}.json"
    if not found.exists():
        _train(training, commands if config.isolate else None, bar=False)
        metrics = evaluate(
            EvaluateConfig(
                source=str(folder / LAST),
                data=training.data,
                split=config.split,
                output=str(folder / "evaluation"),
                num_workers=training.run.num_workers,
                progress=False,
            )
        )
        graph = graph_of(folder / LAST)
        outcome = Outcome.of(arm, seed, metrics, cost=cost_of(folder / LAST), graph=graph)
        write_whole(found, outcome.to_json())
    return Outcome.from_json(found.read_text())


def _check_same(folder: Path, training: TrainConfig) -> None:
    """Refuse a finished run of other settings; that of an unfinished one is the training's own affair."""
    path = folder / CONFIG
    if not path.exists():
        return
    changed = differences(json.loads(path.read_text()), json.loads(config_text(training)))
    if changed:
        raise ValueError(
            f"{folder} holds a run of other settings ({', '.join(changed)}); choose another output, or remove that "
            "folder"
        )


def _train(training: TrainConfig, commands: Commands | None, *, bar: bool) -> None:
    """Train, as one of the commands or, where there are none, in this process."""
    if commands is None:
        fit(training)
        return
    folder = Path(training.run.output)
    folder.mkdir(parents=True, exist_ok=True)
    wanted, log = folder / "wanted.json", folder / "train.log"
    wanted.write_text(config_text(training))
    command = [sys.executable, "-m", "training", "train", "--config", str(wanted)]
    with log.open("a") as file:
        status = commands.run(command, stdout=file, stderr=None if bar else file)
    if status in (130, -signal.SIGTERM):
        raise KeyboardInterrupt
    if status and bar:
        raise OSError(f"the training in {folder} failed, with the reason above")
    if status:
        reason = log.read_text().strip().splitlines()[-1:] or [f"status {status}"]
        raise OSError(f"the training in {folder} failed: {reason[0].removeprefix('bevdistill: ')} (see {log})")


def _check_teachers(folder: Path, teachers: Mapping[str, Path]) -> None:
    """Remember the teachers' weights by name, and refuse other weights where there are runs of those before."""
    path = folder / "teachers.json"
    now = {name: _digest(checkpoint) for name, checkpoint in teachers.items()}
    before: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    for name in teachers:
        if before.get(name, now[name]) != now[name]:
            raise ValueError(
                f"{teachers[name]} has changed since the runs in {folder}; choose another output, or remove that folder"
            )
    write_whole(path, json.dumps({**before, **now}, indent=1) + "\n")


def _digest(checkpoint: Path) -> str:
    if not checkpoint.is_file():
        raise ValueError(f"no checkpoint at {checkpoint}; correct teacher_checkpoint, or leave it empty to train one")
    with checkpoint.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _teacher_metrics(
    config: DistillationConfig, folder: str, teacher: Path, training: TrainConfig, mmdet3d: Mmdet3dConfig
) -> Metrics:
    output = config.output / folder / config.split
    path = output / "metrics.json"
    if path.exists():
        return Metrics.from_json(path.read_text())
    return evaluate(
        EvaluateConfig(
            source=str(teacher),
            mmdet3d=mmdet3d,
            data=training.data,
            split=config.split,
            output=str(output),
            num_workers=training.run.num_workers,
            progress=False,
        )
    )


def _machine() -> dict[str, Any]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__}

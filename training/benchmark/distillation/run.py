"""The method table: one teacher, then every method and seed from the same start, scored on the same scenes.

A finished run is never repeated, and an interrupted one resumes where it stopped, so the benchmark may be killed
at any time: the table comes out the same.
"""

import hashlib
import json
import os
import platform
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bevdistill_ros.core.files import write_whole
from training.benchmark.distillation.config import DistillationConfig
from training.benchmark.distillation.inference_cost import graph_of, latency_ratio
from training.benchmark.distillation.kept import Run, kept_runs
from training.benchmark.distillation.outcome import Outcome
from training.benchmark.distillation.report import checkpoint_of, write_report
from training.benchmark.distillation.table import Table, table_text
from training.cli.settings import settings_from, words_of
from training.data.index.load import DataConfig, load_index
from training.data.tables import open_tables
from training.evaluate.metrics import Metrics
from training.evaluate.run import EvaluateConfig, evaluate
from training.parallel.child import module_command
from training.replay.process import Commands
from training.run.callbacks import CONFIG, LAST
from training.run.config import TrainConfig
from training.run.cost import cost_of
from training.run.fit import fit
from training.run.resume import differences, fingerprint
from training.score.without_scenes import scores_without_scenes
from training.teacher.load import trained_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.weights.checkpoint import config_text


def run_distillation(config: DistillationConfig) -> str:
    """Train and score what is still missing, write results and report; returns the closing text.

    Raises:
        ValueError: Settings, data or a run that is there already do not fit.
        OSError: A training failed; its log is named.
        KeyboardInterrupt: It was interrupted or terminated; the same call resumes.
    """
    with Commands() as commands:
        return _run(config, commands)


def _run(config: DistillationConfig, commands: Commands) -> str:
    others = {name: _teacher_training(config, f"teacher_{name}", changes) for name, changes in config.teachers.items()}
    common = None if config.teacher_checkpoint else _teacher_training(config, "teacher", {})
    teacher = Path(config.teacher_checkpoint) if common is None else Path(common.run.output) / LAST
    checkpoints = {"": teacher, **{name: Path(entry.run.output) / LAST for name, entry in others.items()}}
    trainings = {
        (row, seed): _training(config, row, seed, checkpoints[config.rows[row].get("teacher", "")])
        for row, seed in config.runs
    }
    data = trainings[next(iter(trainings))]
    _check_data([training.data for training in trainings.values()], config.split)
    for training in (common, *others.values()):
        if training is not None:
            _train(training, commands if config.isolate else None, bar=True)
    _check_teachers(config.output, checkpoints)
    path = config.results / f"distillation-{config.name}.json"
    settings = _settings_of(trainings)
    kept = kept_runs(path, config.split, settings) if config.keep_results else {}
    table = Table(
        config=json.loads(json.dumps(asdict(config), default=str)),
        machine=_machine(),
        teacher=_teacher_metrics(config, "teacher_evaluation", teacher, data, data.mmdet3d),
        teachers={
            name: _teacher_metrics(config, f"teacher_{name}_evaluation", checkpoints[name], data, Mmdet3dConfig())
            for name in others
        },
        outcomes=sorted(kept.values(), key=config.place_of),
        latency_ratio=None,
    )
    missing = {run: training for run, training in trainings.items() if run not in kept}
    for outcome in _outcomes(config, commands, missing, settings):
        table.outcomes.append(outcome)
        table.outcomes.sort(key=config.place_of)
        table.write(path)
    pair = [checkpoint_of(table, config.output, row) for row in (table.methods[-1], config.baseline)]
    if pair[0] is not None and pair[1] is not None:
        table.latency_ratio = latency_ratio(pair[0], pair[1])
        table.write(path)
    shown = trained_teacher(teacher, data.mmdet3d, grid=data.student.grid)
    page = write_report(table, config.output, teacher=shown, split=config.split)
    return f"{table_text(table)}\n\nresults: {path}\nreport: {page}"


def _check_data(trainings: Sequence[DataConfig], split: str) -> None:
    """Report a mistake in the data of a row now, not after hours; rows may have data of their own."""
    for data in {str(data): data for data in trainings}.values():
        index = load_index(data)
        for name in (data.train_split, split):
            index.samples_of(name)


def _teacher_training(config: DistillationConfig, folder: str, changes: Mapping[str, Any]) -> TrainConfig:
    settings = {
        **_shared_settings(config, "teacher"),
        **changes,
        "run.output": str(config.output / folder),
        "run.resume": True,
    }
    return settings_from(TrainConfig, [f"--config={config.teacher}", *words_of(settings)])


def _training(config: DistillationConfig, arm: str, seed: int, teacher: Path) -> TrainConfig:
    settings = {
        **_shared_settings(config, "student"),
        **{name: value for name, value in config.rows[arm].items() if name != "teacher"},
        "optim.seed": seed,
        "run.output": str(_folder(config, arm, seed)),
        "run.resume": True,
        "run.progress": False,
    }
    if settings.get("distill.method", "none") != "none" or settings.get("distill.inherit") == "decoder":
        settings.setdefault("teacher_checkpoint", str(teacher))
    try:
        training = settings_from(TrainConfig, [f"--config={config.student}", *words_of(settings)])
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


def _folder(config: DistillationConfig, arm: str, seed: int) -> Path:
    return config.output / arm / f"seed{seed}"


def _settings_of(trainings: Mapping[Run, TrainConfig]) -> dict[Run, str]:
    """What another run must share to be the same: its settings, and the weights of its teacher if it has one."""
    teachers = {training.teacher_checkpoint for training in trainings.values()} - {""}
    digests = {teacher: (_digest(Path(teacher)),) for teacher in teachers}
    return {run: fingerprint(entry, *digests.get(entry.teacher_checkpoint, ())) for run, entry in trainings.items()}


def _outcomes(
    config: DistillationConfig,
    commands: Commands,
    trainings: Mapping[Run, TrainConfig],
    settings: Mapping[Run, str],
) -> Iterator[Outcome]:
    """Outcome of every training as it comes, `jobs` at once."""

    def one(arm: str, seed: int) -> Outcome:
        return _outcome(config, commands, arm, seed, trainings[arm, seed], settings[arm, seed])

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


def _outcome(
    config: DistillationConfig, commands: Commands, arm: str, seed: int, training: TrainConfig, settings: str
) -> Outcome:
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
        outcome = Outcome.of(
            arm,
            seed,
            metrics,
            cost=cost_of(folder / LAST),
            graph=graph_of(folder / LAST),
            without_scenes=scores_without_scenes(
                open_tables(training.data.root, training.data.version), config.split, folder / "evaluation"
            ),
            settings=settings,
            machine=", ".join(f"{name} {value}" for name, value in _machine().items()),
        )
        write_whole(found, outcome.to_json())
    return Outcome.from_json(found.read_text())


def _check_same(folder: Path, training: TrainConfig) -> None:
    """Refuse a finished run of other settings; the training itself checks those of an unfinished one."""
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
    write_whole(wanted, config_text(training))
    command = module_command("training", "train", "--config", str(wanted))
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
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    return {"device": device, "cores": os.cpu_count(), "torch": torch.__version__}


def _processor() -> str:
    facts = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

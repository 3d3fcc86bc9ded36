"""The whole loop on one machine, without a GPU: world, teacher, students, evaluation, export, live replay, pictures."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from bevdistill_ros.core.files import write_whole
from training.benchmark.speed import SpeedConfig, engine_ms, measure
from training.cli.settings import settings_from
from training.data.index.load import DataConfig
from training.evaluate.metrics import Metrics
from training.evaluate.run import EvaluateConfig, evaluate
from training.export.run import ExportConfig, run_export
from training.replay.config import ReplayConfig
from training.replay.run import check_ros, run_replay
from training.run.callbacks import LAST
from training.run.config import TrainConfig
from training.run.fit import fit
from training.show.compare import CompareConfig, run_compare
from training.show.run import ShowConfig, run_show
from training.synth.config import KEY_FRAME_RATE, SynthConfig
from training.synth.writer import write_world

Result = TypeVar("Result")
_LOG = logging.getLogger(__name__)
_ORIGIN = (
    "The models started from the small weights in config/weights, which were trained on other scenes by the commands\n"
    "in config/weights/README.md, the students alike but for distillation, and were trained on here for some steps."
)
_START = {"teacher": "teacher", "student": "student", "bevdistill": "student_bevdistill"}  # weights of each model
_NAMES = {"teacher": "LiDAR teacher", "student": "student", "bevdistill": "student + BEVDistill"}
_STUDENTS = ("student", "bevdistill")
_INT8_FRAMES = 32  # that int8 is calibrated on
_CONFIG = Path(__file__).parent.parent / "config"
_RESULTS = {
    *("demo.txt", "world", "pictures", "bundle", "bundle_student", "replay", "replay_student"),
    *_NAMES,
}
_MARK = "demo.txt"  # in the output folder, so that only an earlier demo is ever replaced


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Sizes of the demo; with the defaults it takes some minutes on two CPU cores."""

    output: Path = Path("runs/demo")  # everything that the demo makes; an earlier demo there is replaced
    seed: int = 1000  # of the world; the shipped weights were trained on the worlds of other seeds
    train_scenes: int = 6
    val_scenes: int = 8
    frames_per_scene: int = 10  # key frames, at 2 Hz
    teacher_steps: int = 40  # of training on from the shipped weights
    student_steps: int = 60  # of training on from the shipped weights, with and without distillation
    replay: bool = True  # needs ROS 2


def run_demo(config: DemoConfig) -> str:
    """Run the loop; returns the closing text with all scores and paths.

    Raises:
        ValueError: The output folder holds something other than an earlier demo.
        ModuleNotFoundError: There is no ROS 2 to replay through.
    """
    started = time.monotonic()
    output = config.output
    if config.replay:
        check_ros()
    _clear(output)
    data = DataConfig(
        root=output / "world", version="v1.0-synth", train_split="synth_train", val_split="synth_val", num_sweeps=2
    )
    _stage("1/6 a synthetic world in nuScenes format", lambda: write_world(_world_config(config, data.root)))
    titles = {
        "teacher": "2/6 LiDAR teacher, Object-DGCNN",
        "student": "3/6 camera student, BEVFormer, without distillation",
        "bevdistill": "4/6 camera student with BEVDistill",
    }
    scores: dict[str, Metrics] = {}
    for model, title in titles.items():
        _stage(title, partial(_train, model, config, data))
        scores[model] = _score(output, model, data)
    bundles = {model: _export(output, model) for model in _STUDENTS}
    bundle = bundles["bevdistill"]
    pictures = [
        run_show(ShowConfig(source=str(source), data=data, output=str(output / "pictures" / name), frames=1))
        for name, source in (("student", bundle), ("teacher", output / "teacher" / LAST))
    ]
    pictures.append(run_compare(_comparison(output, data)))
    table = _score_table(scores)
    if config.replay:
        table += "\n" + _stage("5/6 live replay through the ROS 2 node", lambda: _replay(bundles, data, output))
    speed = _stage("6/6 speed", lambda: measure(SpeedConfig(bundle=bundle, data=data), _trainings(config, data)))
    minutes = (time.monotonic() - started) / 60
    return (
        f"\n{table}\n\n{speed}\n\n{_ORIGIN}\n" + "\n".join(pictures) + f"\nresults: {output}  ({minutes:.1f} minutes)"
    )


def _export(output: Path, model: str) -> Path:
    """The bundle of a student; that of the distilled one is the demo's product, and offers int8 too."""
    is_product = model == "bevdistill"
    folder = output / ("bundle" if is_product else f"bundle_{model}")
    settings = ExportConfig(
        checkpoint=str(output / model / LAST),
        output=str(folder),
        name="bevformer-tiny",
        int8_frames=_INT8_FRAMES if is_product else 0,
    )
    run_export(settings)
    return folder


def _comparison(output: Path, data: DataConfig) -> CompareConfig:
    first, second, teacher = (str(output / model / LAST) for model in (*_STUDENTS, "teacher"))
    return CompareConfig(
        first=first,
        second=second,
        teacher=teacher,
        names=(_NAMES["student"], _NAMES["bevdistill"]),
        data=data,
        output=output / "pictures" / "compare.png",
    )


def _clear(output: Path) -> None:
    if output.exists():
        foreign = sorted({path.name for path in output.iterdir()} - _RESULTS)
        if foreign or (any(output.iterdir()) and not (output / _MARK).is_file()):
            listed = ", ".join(foreign[:3]) or f"no {_MARK}"
            raise ValueError(f"{output} holds something other than an earlier demo ({listed}); choose another folder")
        shutil.rmtree(output)
    output.mkdir(parents=True)
    write_whole(output / _MARK, "Written by bevdistill demo; the next demo replaces this folder.\n")


def _world_config(config: DemoConfig, root: Path) -> SynthConfig:
    return SynthConfig(
        root=root,
        seed=config.seed,
        num_train_scenes=config.train_scenes,
        num_val_scenes=config.val_scenes,
        num_tune_scenes=0,
        frames_per_scene=config.frames_per_scene,
        overwrite=True,
    )


def _train(model: str, config: DemoConfig, data: DataConfig) -> Path:
    """Train one of the three models on from its shipped weights."""
    return fit(_training(model, config, data))


def _training(model: str, config: DemoConfig, data: DataConfig) -> TrainConfig:
    steps = config.teacher_steps if model == "teacher" else config.student_steps
    settings = {
        "config": _CONFIG / "train" / f"{'teacher' if model == 'teacher' else 'student'}_tiny.yaml",
        "data.root": data.root,
        "optim.steps": steps,
        "optim.learning_rate": 2e-5,
        "optim.warmup_steps": 5,
        "optim.ema_decay": 0.0,
        "run.output": config.output / model,
        "run.initial_weights": _CONFIG / "weights" / f"{_START[model]}.safetensors",
    }
    if model == "bevdistill":
        settings |= {
            "distill.method": "bevdistill_dense",
            # Its decoder began as the teacher's, so both maps are read alike.
            "distill.bevdistill_dense.student_adapter": "none",
            "distill.bevdistill_dense.teacher_adapter": "none",
            "teacher_checkpoint": config.output / "teacher" / LAST,
        }
    return settings_from(TrainConfig, [f"--{name}={value}" for name, value in settings.items()])


def _trainings(config: DemoConfig, data: DataConfig) -> tuple[tuple[str, TrainConfig], ...]:
    return tuple((model, _training(model, config, data)) for model in ("teacher", "student", "bevdistill"))


def _replay(bundles: Mapping[str, Path], data: DataConfig, output: Path) -> str:
    """Replay the validation scenes live; returns the lines for the score table, and the stage table of the last."""
    timed = SpeedConfig(bundle=bundles["bevdistill"], data=data)
    reports, before = {}, 0.0
    for model, bundle in bundles.items():
        if model == "bevdistill":  # timed before and after its replay, as a machine changes its pace within a minute
            (before,) = engine_ms(timed, (KEY_FRAME_RATE,))
        replay = ReplayConfig(
            bundle=bundle,
            output=output / ("replay" if model == "bevdistill" else f"replay_{model}"),
            root=data.root,
            version=data.version,
            split=data.val_split,
        )
        reports[model] = run_replay(replay)
    after, unpaused = engine_ms(timed, (KEY_FRAME_RATE, math.inf))
    live = {model: report.metrics for model, report in reports.items() if report.metrics is not None}
    lines = [_score_line(f"{_NAMES[model]}, live", metrics) for model, metrics in live.items()]
    report = reports["bevdistill"]
    stages = [
        f"  {name:<25}{entry.p50:>9.1f}{entry.p95:>9.1f}{entry.max:>9.1f}" for name, entry in report.latency_ms.items()
    ]
    head = f"live replay: {report.sets_sent} sets sent, {report.sets_lost} lost; ms of each stage (p50, p95, max)"
    there, own = report.latency_ms["inference"].p50, (before + after) / 2
    ratio = (
        f"inference in the node {there:.1f} ms (p50), the same engine alone at {KEY_FRAME_RATE:g} Hz "
        f"{before:.1f} ms before and {after:.1f} ms after: {there / own:.2f} times\n"
        f"alone and without pauses {unpaused:.1f} ms"
    )
    return "\n".join([*lines, _gain_line("gain, live through ROS 2", live), "", head, *stages, ratio])


def _score(output: Path, model: str, data: DataConfig) -> Metrics:
    return evaluate(
        EvaluateConfig(source=str(output / model / LAST), data=data, output=str(output / model / "evaluation"))
    )


def _score_table(scores: Mapping[str, Metrics]) -> str:
    lines = [f"{'on scenes not trained on':<28}{'NDS':>8}{'mAP':>8}"]
    lines += [_score_line(_NAMES[model], metrics) for model, metrics in scores.items()]
    return "\n".join([*lines, _gain_line("gain of distillation", scores)])


def _score_line(name: str, metrics: Metrics) -> str:
    return f"{name:<28}{metrics.nds:>8.3f}{metrics.mean_ap:>8.3f}"


def _gain_line(name: str, scores: Mapping[str, Metrics]) -> str:
    plain, distilled = (scores[model] for model in _STUDENTS)
    return f"{name:<28}{distilled.nds - plain.nds:>+8.3f}{distilled.mean_ap - plain.mean_ap:>+8.3f}"


def _stage(title: str, work: Callable[[], Result]) -> Result:
    """Do a stage of the demo and log how long it took."""
    _LOG.info("== %s", title)
    started = time.monotonic()
    result = work()
    _LOG.info("== %s: %.0f s", title, time.monotonic() - started)
    return result

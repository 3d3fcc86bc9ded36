"""The command `bevdistill`: one word a task, settings from YAML and the command line, one clear line for a mistake."""

import importlib
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from bevdistill_ros import wait_as_in_the_node
from training.cli.ending import Ending, WrongCall
from training.cli.failures import meaning_of
from training.cli.settings import nearest, settings_from


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: what it is for, and where its settings and its function `(settings) -> closing text` are."""

    summary: str
    module: str
    config: str
    function: str
    again: str = ""  # how to go on after an interruption
    as_in_node: bool = False  # torch's threads wait as in the node, whose times it measures


COMMANDS: dict[str, Command] = {
    "synth": Command(
        summary="write a synthetic world to disk in nuScenes format",
        module="training.synth.writer",
        config="SynthConfig",
        function="run_synth",
    ),
    "cut": Command(
        summary="cut the scenes of a database in time: the first part to train on, the rest to score",
        module="training.data.cut",
        config="CutConfig",
        function="run_cut",
    ),
    "hide": Command(
        summary="hide the annotations of some scenes of a split, to measure what labels are worth",
        module="training.data.hide",
        config="HideConfig",
        function="run_hide",
    ),
    "train": Command(
        summary="train a teacher, a student, or a student that learns from a teacher",
        module="training.run.fit",
        config="TrainConfig",
        function="run_train",
    ),
    "evaluate": Command(
        summary="score a checkpoint or a bundle with the official nuScenes metrics",
        module="training.evaluate.run",
        config="EvaluateConfig",
        function="run_evaluate",
    ),
    "label": Command(
        summary="label unlabelled drives with a trained teacher: annotations with scores, tracked over time",
        module="training.label.run",
        config="LabelConfig",
        function="run_label",
        again="the same command goes on",
    ),
    "score": Command(
        summary="score a results file or what a vehicle recorded, whole and by distance band, region and scene",
        module="training.score.run",
        config="ScoreConfig",
        function="run_score",
    ),
    "gate": Command(
        summary="judge a report by the criteria of a gate, alone or against a baseline: table, JUnit XML, exit status",
        module="training.gate.run",
        config="GateConfig",
        function="run_gate",
    ),
    "report": Command(
        summary="a page of a report that opens offline: plots, worst frames, a film, places in bags",
        module="training.report.run",
        config="ReportConfig",
        function="run_report",
    ),
    "export": Command(
        summary="turn a student's checkpoint into a bundle for the node",
        module="training.export.run",
        config="ExportConfig",
        function="run_export",
    ),
    "import-weights": Command(
        summary="turn a public BEVFormer or BEVDistill checkpoint into a bundle",
        module="training.import_weights",
        config="ImportConfig",
        function="run_import",
    ),
    "replay": Command(
        summary="replay bags or scenes, live through the ROS 2 node or offline, and score what it publishes",
        module="training.replay.run",
        config="ReplayConfig",
        function="run_replay_command",
    ),
    "bag write": Command(
        summary="write scenes of a data set in nuScenes format as bags",
        module="training.bag.write_command",
        config="BagWriteConfig",
        function="run_bag_write",
        again="the same command goes on",
    ),
    "bag import": Command(
        summary="make a data set in nuScenes format of bags, whoever recorded them",
        module="training.bag_import.run",
        config="BagImportConfig",
        function="run_bag_import",
        again="the same command goes on",
    ),
    "bag info": Command(
        summary="what bags hold, and what they lack for replay, import, scoring and training",
        module="training.bag_import.info",
        config="BagInfoConfig",
        function="run_bag_info",
    ),
    "show": Command(
        summary="draw detections and ground truth: six cameras and the bird's-eye view",
        module="training.show.run",
        config="ShowConfig",
        function="run_show",
    ),
    "compare": Command(
        summary="who of two students finds which object, and a picture of the frame where they differ most",
        module="training.show.compare",
        config="CompareConfig",
        function="run_compare",
    ),
    "bench": Command(
        summary="measure data generation, training and inference on this machine",
        module="training.benchmark.speed",
        config="SpeedConfig",
        function="run_speed",
    ),
    "bench deformable": Command(
        summary="compare our deformable sampling with mmcv's in plain torch: time, memory, numbers",
        module="training.benchmark.deformable",
        config="DeformableConfig",
        function="run_deformable",
    ),
    "bench index": Command(
        summary="time and memory of indexing tables as large as those of nuScenes",
        module="training.benchmark.index",
        config="IndexBenchConfig",
        function="run_index",
    ),
    "bench score": Command(
        summary="what scoring takes beside the devkit's own evaluation, on generated frames",
        module="training.benchmark.score",
        config="ScoreBenchConfig",
        function="run_score_bench",
    ),
    "bench decode": Command(
        summary="accuracy of a student on JPEGs that are decoded whole and at a reduced size",
        module="training.benchmark.decode",
        config="DecodeConfig",
        function="run_decode",
    ),
    "bench import": Command(
        summary="speed of an import of JPEGs from a bag, beside copying the same bytes",
        module="training.benchmark.bag_import",
        config="ImportBenchConfig",
        function="run_import_bench",
    ),
    "bench node": Command(
        summary="what the node takes around its network, beside a naive node; over real middleware",
        module="training.benchmark.node.overhead",
        config="NodeBenchConfig",
        function="run_node_bench",
        as_in_node=True,
    ),
    "bench engine": Command(
        summary="every engine of a bundle in turn, also under load: time, memory, agreement with torch, NDS",
        module="training.benchmark.engine.run",
        config="EngineBenchConfig",
        function="run_engine_bench",
        as_in_node=True,
    ),
    "bench soak": Command(
        summary="a long drive with faults at random: memory, threads, and the fate of every set",
        module="training.benchmark.node.soak",
        config="SoakConfig",
        function="run_soak",
    ),
    "bench step": Command(
        summary="one training step of a configuration: parameters, memory, time",
        module="training.benchmark.step",
        config="StepConfig",
        function="run_step",
    ),
    "doctor": Command(
        summary="check everything that the node needs, on this machine or in a recording (--bag)",
        module="training.replay.doctor",
        config="BagDoctorConfig",
        function="run_doctor_command",
    ),
    "bench distillation": Command(
        summary="train all distillation methods from the same start and compare them in a table",
        module="training.benchmark.distillation.run",
        config="DistillationConfig",
        function="run_distillation",
        again="the same command goes on",
    ),
    "demo": Command(
        summary="the whole loop in minutes on a CPU",
        module="training.demo",
        config="DemoConfig",
        function="run_demo",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    for words in (2, 1):  # some commands are two words
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return _run(name, arguments[words:])
    close = nearest(" ".join(arguments[:2]), list(COMMANDS)) or nearest(arguments[0], list(COMMANDS))
    return _fail(f"unknown command '{arguments[0]}'{close} (bevdistill --help lists the commands)", 2)


def _run(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS[name]
    if command.as_in_node:  # before the module loads torch
        wait_as_in_the_node()
    module = importlib.import_module(command.module)
    _set_up_output()
    try:
        config = settings_from(
            getattr(module, command.config), arguments, program=f"bevdistill {name}", summary=command.summary
        )
    except ValueError as error:
        return _fail(f"{error} (bevdistill {name} --help lists the settings)", 2)
    except SystemExit:  # --help and --print_config
        return 0
    try:
        closing = getattr(module, command.function)(config)
    except Ending as ending:
        sys.stdout.write(f"{ending}\n")
        return ending.status
    except WrongCall as error:
        return _fail(str(error), 2)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        return _fail(_reason(error), 1)
    except RuntimeError as error:
        if (meaning := meaning_of(error)) is None:
            raise
        return _fail(meaning, 1)
    except KeyboardInterrupt as error:
        return _fail("; ".join(filter(None, ("interrupted", str(error) or command.again))), 130)
    if closing:
        sys.stdout.write(f"{closing}\n")
    return 0


def _reason(error: Exception) -> str:
    """What an error says; of one that was raised in a data loader's worker the line itself, not its traceback."""
    text = str(error).strip() or type(error).__name__
    if "Original Traceback" in text:
        return re.sub(r"^[\w.]+: ", "", text.splitlines()[-1])
    return text


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{command.summary}" for name, command in COMMANDS.items()]
    usage = "usage: bevdistill COMMAND [--config FILE] [--KEY VALUE ...]"
    head = f"{usage}\n\ntrain with LiDAR once, drive with cameras only\n\n"
    tail = "\n\nbevdistill COMMAND --help lists a command's settings; --print_config shows them all with their values\n"
    return head + "\n".join(lines) + tail


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"bevdistill: {message}\n")
    return status


def _set_up_output() -> None:
    """Our own progress goes to standard error; libraries' advice, which a user of ours can't act on, goes nowhere.

    Lightning sets its levels when it is imported, so this comes after.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("training", "bevdistill_ros"):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch)\b.*")

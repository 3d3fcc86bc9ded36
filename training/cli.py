"""The command `bevdistill`: one word a task, settings from YAML and the command line, one clear line for a mistake."""

import dataclasses
import difflib
import importlib
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentError, ArgumentParser


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: what it is for, and where its settings and its function `(settings) -> closing text` are."""

    summary: str
    module: str
    config: str
    function: str


COMMANDS: dict[str, Command] = {
    "synth": Command(
        summary="write a synthetic world to disk in nuScenes format",
        module="training.synth.writer",
        config="SynthConfig",
        function="run_synth",
    ),
    "train": Command(
        summary="train a teacher, a student, or a student that learns from a teacher",
        module="training.fit",
        config="TrainConfig",
        function="run_train",
    ),
    "evaluate": Command(
        summary="score a checkpoint or a bundle with the official nuScenes metrics",
        module="training.evaluate.offline",
        config="EvaluateConfig",
        function="run_evaluate",
    ),
    "export": Command(
        summary="turn a student's checkpoint into a bundle for the node",
        module="training.export",
        config="ExportConfig",
        function="run_export",
    ),
    "replay": Command(
        summary="replay scenes live through the ROS 2 node and score what it publishes",
        module="training.replay.run",
        config="ReplayConfig",
        function="run_replay_command",
    ),
    "show": Command(
        summary="draw detections and ground truth: six cameras and the bird's-eye view",
        module="training.visualize",
        config="ShowConfig",
        function="run_show",
    ),
    "bench": Command(
        summary="measure data generation, training and inference on this machine",
        module="training.benchmark.speed",
        config="SpeedConfig",
        function="run_speed",
    ),
    "demo": Command(
        summary="the whole loop in minutes on a CPU",
        module="training.demo",
        config="DemoConfig",
        function="run_demo",
    ),
}


class _Parser(ArgumentParser):
    """Raises instead of exiting, so that every mistake is reported in one place."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise ArgumentError(None, message)


def build_parser(command: str) -> ArgumentParser:
    """Parser of one command; its options are the fields of the command's configuration."""
    entry = COMMANDS[command]
    parser = _Parser(prog=f"bevdistill {command}", description=entry.summary)
    parser.add_argument("--config", action="config", help="YAML with differences from the defaults")
    parser.add_class_arguments(getattr(importlib.import_module(entry.module), entry.config), fail_untyped=True)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 wrong call, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0
    if arguments[0] not in COMMANDS:
        return _fail(f"unknown command '{arguments[0]}'{_nearest(arguments[0], COMMANDS)}; see bevdistill --help", 2)
    return _run(arguments[0], arguments[1:])


def settings_of(command: str, arguments: Sequence[str]) -> Any:
    """The configuration that a command line gives.

    Raises:
        ValueError: A setting is unknown, of the wrong type, or does not fit the others; in one line.
    """
    parser = build_parser(command)
    kind = getattr(importlib.import_module(COMMANDS[command].module), COMMANDS[command].config)
    try:
        values = vars(parser.instantiate_classes(parser.parse_args(list(arguments))))
        return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
    except (ArgumentError, ValueError, TypeError) as error:
        raise ValueError(_settings_message(parser, str(error))) from error


def _run(command: str, arguments: Sequence[str]) -> int:
    try:
        config = settings_of(command, arguments)
    except ValueError as error:
        return _fail(str(error), 2)
    _quiet()
    try:
        closing = getattr(importlib.import_module(COMMANDS[command].module), COMMANDS[command].function)(config)
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written is left, and a training goes on with --run.resume true", 130)
    sys.stdout.write(f"{closing}\n")
    return 0


def _settings_message(parser: ArgumentParser, message: str) -> str:
    """One line for a wrong setting; an unknown key is answered with the nearest one there is."""
    line = " ".join(message.split())
    unknown = re.search(r"(?:Unrecognized arguments: --|Key '|does not accept option ')([\w.]+)", line)
    if unknown:
        known = [action.dest for action in parser._actions]
        return f"unknown setting '{unknown[1]}'{_nearest(unknown[1], known)}"
    return line


def _nearest(word: str, known: Sequence[str] | dict[str, Command]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else ""


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


def _quiet() -> None:
    """Keep libraries' advice, which a user of ours can't act on, out of the output."""
    warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning.*")
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

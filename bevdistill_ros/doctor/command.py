"""The command: `bevdistill doctor` with pip, `ros2 run bevdistill_ros doctor` on a vehicle."""

import argparse
import inspect
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from bevdistill_ros.doctor.config import DoctorConfig
from bevdistill_ros.doctor.examination import Examination
from bevdistill_ros.doctor.report import Section, has_failed, json_text, section_text, summary

_COMMENT = re.compile(r"^    (\w+): .*?  # (.*)$", re.MULTILINE)
_ROS_ARGUMENTS = "--ros-args"


def run_doctor(config: DoctorConfig, ros_arguments: Sequence[str] = ()) -> str:
    """Examine, write the report to standard output, and return its closing line (of JSON there is none).

    Raises:
        ValueError: A check failed; the message is the closing line.
    """
    sections: list[Section] = []
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    with Examination(config, ros_arguments) as examination:
        for name in examination.wanted:
            _show_progress(f"{name} ...")
            sections.append(examination.section(name))
            _show_progress("")
            if not config.json:
                sys.stdout.write(section_text(sections[-1], colour=colour))
                sys.stdout.flush()
    if config.json:
        sys.stdout.write(json_text(sections, {"picture": examination.picture}))
    if has_failed(sections):
        raise ValueError(summary(sections))
    return "" if config.json else summary(sections)


def _show_progress(text: str) -> None:
    """Replace the last line of a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command without the training package; returns the exit status: 0 all well, 1 a FAIL, 2 wrong call."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    split = words.index(_ROS_ARGUMENTS) if _ROS_ARGUMENTS in words else len(words)
    try:
        config = config_from(words[:split])
    except ValueError as error:
        sys.stderr.write(f"doctor: {error} (--help lists the settings)\n")
        return 2
    try:
        closing = run_doctor(config, words[split:])
    except ValueError as error:
        sys.stderr.write(f"doctor: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("doctor: interrupted\n")
        return 130
    if closing:
        sys.stdout.write(f"{closing}\n")
    return 0


def config_from(words: Sequence[str]) -> DoctorConfig:
    """Settings from a command line of `--key value`; lists are `[A,B]` or `A,B`.

    Raises:
        ValueError: A setting is unknown, or has a value that it may not have.
        SystemExit: After `--help`.
    """
    parser = _Parser(prog="doctor", description="Check everything that the detector needs.", allow_abbrev=False)
    hints, comments = get_type_hints(DoctorConfig), dict(_COMMENT.findall(inspect.getsource(DoctorConfig)))
    for entry in fields(DoctorConfig):
        text, hint = comments[entry.name].replace("%", "%%"), hints[entry.name]
        if hint is bool:
            parser.add_argument(f"--{entry.name}", action="store_true", help=text)
        else:
            choices = get_args(hint) if get_origin(hint) is Literal else None
            parser.add_argument(
                f"--{entry.name}", type=_reader(hint), choices=choices, default=entry.default, help=text
            )
    return DoctorConfig(**vars(parser.parse_args(list(words))))


def _reader(hint: Any) -> Any:
    """What turns a word into a value of a type."""
    if Path in get_args(hint):
        return Path
    if get_origin(hint) is tuple:
        return lambda word: tuple(name.strip() for name in word.strip("[]").split(",") if name.strip())
    return float if hint is float else str


class _Parser(argparse.ArgumentParser):
    """Raises instead of exiting, so that every mistake is reported in one place."""

    def error(self, message: str) -> Any:
        raise ValueError(message)


if __name__ == "__main__":
    sys.exit(main())

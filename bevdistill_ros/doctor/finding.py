"""What a check found."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How good a finding is; from FAIL on the node cannot work, or works wrongly."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    verdict: Verdict
    subject: str  # what was looked at: a package, a camera, a file
    message: str  # what was found
    remedy: str = ""  # what to do about it


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a thing about which there is more to say."""

    verdict: Verdict
    message: str
    remedy: str = ""


def judge(subject: str, message: str, problems: Sequence[Problem]) -> Finding:
    """A finding out of what is so and what is wrong with it, as bad as the worst problem, with that one's remedy."""
    worst = max(problems, key=lambda problem: list(Verdict).index(problem.verdict), default=None)
    texts = [message, *(problem.message for problem in problems)]
    return Finding(
        verdict=worst.verdict if worst else Verdict.OK,
        subject=subject,
        message=_line("; ".join(text for text in texts if text)),
        remedy=_line(worst.remedy) if worst else "",
    )


def ok(subject: str, message: str) -> Finding:
    """A finding that is as it should be."""
    return Finding(verdict=Verdict.OK, subject=subject, message=_line(message))


def warn(subject: str, message: str, remedy: str = "") -> Finding:
    """A finding with which the node works, but not as well as it could, or not for everybody."""
    return Finding(verdict=Verdict.WARN, subject=subject, message=_line(message), remedy=_line(remedy))


def fail(subject: str, message: str, remedy: str = "") -> Finding:
    """A finding with which the node cannot work, or works wrongly."""
    return Finding(verdict=Verdict.FAIL, subject=subject, message=_line(message), remedy=_line(remedy))


def count(findings: Iterable[Finding], verdict: Verdict) -> int:
    """How many findings have a verdict."""
    return sum(finding.verdict is verdict for finding in findings)


def share_of(part: int, whole: int) -> str:
    """A part of a number in words, such as `3 of 60 (5 %)`; never 0 % of something, never 100 % of not all."""
    percent = 100 * part / whole if whole else math.nan
    shown = f"{percent:.1f}" if 0 < percent < 1 or 99 < percent < 100 else f"{percent:.0f}"
    return f"{part} of {whole} ({shown} %)"


def _line(text: str) -> str:
    return " ".join(text.split())

"""The report of the doctor, as text for people and as JSON for machines."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from bevdistill_ros.doctor.finding import Finding, Verdict, count

_COLOURS = {Verdict.OK: "\033[32m", Verdict.WARN: "\033[33m", Verdict.FAIL: "\033[1;31m"}
_BOLD, _PLAIN = "\033[1m", "\033[0m"
_INDENT = " " * 8


@dataclass(frozen=True, kw_only=True)
class Section:
    """Findings about one thing."""

    name: str
    findings: tuple[Finding, ...]


def section_text(section: Section, *, colour: bool) -> str:
    """A section as lines: its name, and for each finding the verdict, what was found and, once, what to do."""
    lines = [f"{_BOLD}{section.name}{_PLAIN}" if colour else section.name]
    shown: set[str] = set()
    for finding in section.findings:
        word = f"{finding.verdict:<4}"
        word = f"{_COLOURS[finding.verdict]}{word}{_PLAIN}" if colour else word
        lines.append(f"  {word}  {finding.subject}: {finding.message}")
        if finding.remedy:
            lines.append(f"{_INDENT}-> {'as above' if finding.remedy in shown else finding.remedy}")
            shown.add(finding.remedy)
    return "\n".join(lines) + "\n"


def summary(sections: Iterable[Section]) -> str:
    """One line: how many findings of each verdict, and the subjects that failed."""
    findings = [finding for section in sections for finding in section.findings]
    counts = ", ".join(f"{count(findings, verdict)} {verdict}" for verdict in Verdict)
    failed = [f"{section.name} ({finding.subject})" for section, finding in _failures(sections)]
    return counts + (f": {', '.join(failed)}" if failed else "")


def has_failed(sections: Iterable[Section]) -> bool:
    """Whether any finding is a FAIL."""
    return any(True for _ in _failures(sections))


def json_text(sections: Iterable[Section], extra: Mapping[str, str]) -> str:
    """The report as JSON: `verdict` is the worst of all, `sections` maps names to findings, and `extra` as it is."""
    sections = list(sections)
    findings = [finding for section in sections for finding in section.findings]
    worst = max((finding.verdict for finding in findings), key=list(Verdict).index, default=Verdict.OK)
    content = {
        "verdict": worst,
        "counts": {str(verdict): count(findings, verdict) for verdict in Verdict},
        "sections": {section.name: [asdict(finding) for finding in section.findings] for section in sections},
        **extra,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _failures(sections: Iterable[Section]) -> Iterable[tuple[Section, Finding]]:
    return (
        (section, finding) for section in sections for finding in section.findings if finding.verdict is Verdict.FAIL
    )

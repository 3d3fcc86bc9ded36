"""Words that a reader from elsewhere would stumble over stay out of code, messages and documentation."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".md", ".yaml", ".yml", ".msg", ".xml", ".sh", ".txt", ".toml", ".cff"}

INSTEAD = {  # pattern: what to write
    r"\b(tells|told|untold)\b(?! (you|me)\b)": "report, log, warn; show; give; distinguish",
    r"\bnothing tells\b|\bno interface tells\b": "is unknown",
    r"\banew\b": "again, regenerated, retrain",
    r"\bamid\b": "during, among; mid-sweep",
    r"\blooks? of the ring\b": "a synchronised set of images, a frame",
    r"\bof no account\b": "ignored by",
    r"\blets? go of\b": "closes, releases, discards",
    r"\bgo(es)? on exactly\b": "resumes bit-exactly",
    r"\bmust be fed\b": "its inputs",
    r"\bweighs over\b": "exceeds",
    r"\bwithout a word\b": "silently, without an error",
    r"\bone a (file|line|camera|row|set|frame|scene|class)\b": "one per",
    r"\bmost detections a\b|\bms a set\b|\bframes a second\b|\bsamples a second\b": "per",
    r"(?<!there )\bis no (text|file|bundle|folder|checkpoint|class|camera|number|configuration|ordinary)\b": "is not a",
}


def faults_in(text: str) -> list[str]:
    """Each word that is not to be used, with its line and what to write instead."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, instead in INSTEAD.items():
            if match := re.search(pattern, line, re.IGNORECASE):
                found.append(f"{number}: '{match[0]}', write: {instead}")
    return found


def tracked_files() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the git repository, which lists the files that are ours")
    paths = (ROOT / name for name in listed.splitlines())
    return [path for path in paths if path.suffix in SUFFIXES and path != Path(__file__) and path.is_file()]


def test_plain_words_everywhere() -> None:
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in tracked_files() for fault in faults_in(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "is_fine"),
    [
        ("the hash tells damage", False),
        ("Train it anew", False),
        ("one look of the ring", False),
        ("goes on exactly", False),
        ("the file is no bundle", False),
        ("there is no bundle", True),
        ("a detail of an area that is known", True),
        ("tell -> report", True),
    ],
)
def test_words_are_found_and_others_left_alone(line: str, is_fine: bool) -> None:
    assert (faults_in(line) == []) is is_fine

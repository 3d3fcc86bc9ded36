"""Runs that a result file has already, perhaps of another machine, so that a table can grow from day to day."""

import json
from collections.abc import Mapping
from pathlib import Path

from training.benchmark.distillation.outcome import Outcome

Run = tuple[str, int]  # row and seed


def kept_runs(path: Path, split: str, settings: Mapping[Run, str]) -> dict[Run, Outcome]:
    """The runs of a result file that are among the wanted ones and were trained with the same settings.

    Args:
        path: The result file; none where there is no such file.
        split: On which they must be scored.
        settings: Of each wanted run, see `training.run.resume.fingerprint`.

    Raises:
        ValueError: The file is damaged.
    """
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text())["runs"]
        found = [Outcome(**entry) for entry in entries if entry.get("settings")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result file of this benchmark ({error}); remove it") from error
    return {
        (run.method, run.seed): run
        for run in found
        if run.split == split and settings.get((run.method, run.seed)) == run.settings
    }

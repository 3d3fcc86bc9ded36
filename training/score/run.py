"""`bevdistill score`: a results file against a data set, whole and by distance, region and scene."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bevdistill_ros.core.files import write_whole
from training.data.tables import open_tables
from training.evaluate.metrics import Metrics, Part, evaluate_parts, evaluate_results, split_tokens
from training.evaluate.results import Results
from training.score.parts import Parts, distance_bands, regions_of, scenes_of_split

REPORT = "report.json"


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What `bevdistill score` scores."""

    results: Path  # results.json of evaluate or replay, or a nuScenes submission
    root: Path  # data set with the ground truth, the folder that holds the tables
    version: str = "v1.0-trainval"  # folder of the tables
    split: str = "val"
    bands: tuple[float, ...] = (0.0, 20.0, 40.0)  # [m] edges of the distance bands
    regions: Path | None = None  # YAML, `name: [[x, y], ...]`: polygons in the global frame [m]
    scenes: bool = False  # score each scene too
    output: Path = Path("runs/score")  # folder for report.json and the official files


def run_score(config: ScoreConfig) -> str:
    """Score; returns the tables.

    Raises:
        ValueError: The results, the data or the regions can't be read, or the split has nothing to score.
    """
    results, nusc = _read(config.results), open_tables(config.root, config.version)
    groups: dict[str, Parts] = {"bands": distance_bands(config.bands)}
    if config.regions is not None:
        groups["regions"] = regions_of(config.regions)
    if config.scenes:
        groups["scenes"] = scenes_of_split(nusc, split_tokens(nusc, config.split))
    whole = evaluate_results(nusc, results, config.split, config.output)
    found = {name: evaluate_parts(nusc, config.output, config.split, parts) for name, parts in groups.items()}
    path = config.output / REPORT
    write_whole(path, json.dumps(_plain(whole, found), indent=2, allow_nan=False))
    tables = [_table(name, parts) for name, parts in found.items()]
    return "\n\n".join([whole.table(), *tables, f"report: {path}"])


def _read(path: Path) -> Results:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("meta", "results")):
        raise ValueError(f"results {path} is not a nuScenes results file; it needs the keys meta and results")
    return content


def _plain(whole: Metrics, found: dict[str, dict[str, Part]]) -> dict[str, Any]:
    return {
        "whole": asdict(whole),
        **{group: {name: _plain_part(part) for name, part in parts.items()} for group, parts in found.items()},
    }


def _plain_part(part: Part) -> dict[str, Any]:
    """The scores over the classes that a part has; null without any ground truth."""
    means = {"nds": part.nds, "mean_ap": part.mean_ap} if part.boxes else {"nds": None, "mean_ap": None}
    return {**means, **asdict(part)}


def _table(group: str, parts: dict[str, Part]) -> str:
    """One line per part: boxes of ground truth; NDS, mAP and AP of the classes that it has."""
    lines = [f"{group:<24}{'boxes':>8}{'NDS':>8}{'mAP':>8}  AP of the classes there are"]
    for name, part in parts.items():
        classes = ", ".join(f"{kind} {part.metrics.class_ap[kind]:.2f}" for kind in part.boxes)
        total = sum(part.boxes.values())
        means = f"{part.nds:>8.3f}{part.mean_ap:>8.3f}" if total else f"{'-':>8}{'-':>8}"
        lines.append(f"{name[:23]:<24}{total:>8}{means}  {classes}")
    return "\n".join(lines)

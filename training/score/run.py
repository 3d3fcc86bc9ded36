"""`bevdistill score`: a results file against a data set, whole and by distance, region and scene."""

import json
from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.core.files import write_whole
from training.data.tables import open_tables
from training.evaluate.metrics import evaluate_boxes
from training.evaluate.results import Results
from training.score.boxes import table_of
from training.score.frames import frames_of
from training.score.parts import Parts, distance_bands, regions_of
from training.score.report import REPORT, report_of
from training.score.scores import Scored


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
    frames = frames_of(nusc, config.split)
    evaluated = evaluate_boxes(nusc, results, config.split, config.output)
    truth, found = (table_of(boxes, frames.tokens) for boxes in (evaluated.truth, evaluated.found))
    source = {"root": str(config.root.absolute()), "version": config.version, "split": config.split}
    report, scored = report_of(
        evaluated.metrics, truth, found, frames, groups, with_scenes=config.scenes, source=source
    )
    path = config.output / REPORT
    write_whole(path, json.dumps(report, allow_nan=False))
    tables = [_table(name, parts) for name, parts in scored.items()]
    return "\n\n".join([evaluated.metrics.table(), *tables, f"report: {path}"])


def _read(path: Path) -> Results:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"results {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), dict) for key in ("meta", "results")):
        raise ValueError(f"results {path} is not a nuScenes results file; it needs the keys meta and results")
    return content


def _table(group: str, parts: dict[str, Scored]) -> str:
    """One line per part: boxes of ground truth; NDS, mAP and AP of the classes that it has."""
    lines = [f"{group:<24}{'boxes':>8}{'NDS':>8}{'mAP':>8}  AP of the classes there are"]
    for name, part in parts.items():
        classes = ", ".join(f"{kind} {part.metrics.class_ap[kind]:.2f}" for kind in part.boxes)
        cells = "".join(f"{'-' if value is None else f'{value:.3f}':>8}" for value in (part.nds, part.mean_ap))
        lines.append(f"{name[:23]:<24}{sum(part.boxes.values()):>8}{cells}  {classes}")
    return "\n".join(lines)

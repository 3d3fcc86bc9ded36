"""`bevdistill score`: a results file against a data set, whole and by distance, region and scene."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.files import write_whole
from training.data.tables import open_tables
from training.evaluate.metrics import RESULTS, evaluate_boxes
from training.evaluate.results import Results
from training.score.boxes import table_of
from training.score.detections import found_in
from training.score.frames import Frames, frames_of
from training.score.parts import Parts, distance_bands, regions_of
from training.score.report import head_of, scores_of
from training.score.schema import BANDS, REGIONS, REPORT
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
    min_score: float = 0.3  # least score of a box that is counted in frames, and for flicker
    output: Path = Path("runs/score")  # folder for report.json and the official files

    def __post_init__(self) -> None:
        if not 0 <= self.min_score <= 1:
            raise ValueError(f"min_score must be in 0...1, but is {self.min_score:g}")


def run_score(config: ScoreConfig) -> str:
    """Score, or only count where the split has no annotations; returns the tables.

    Raises:
        ValueError: The results, the data or the regions can't be read, or the split has nothing to score.
    """
    results, nusc = _read(config.results), open_tables(config.root, config.version)
    groups: dict[str, Parts] = {BANDS: distance_bands(config.bands)}
    if config.regions is not None:
        groups[REGIONS] = regions_of(config.regions)
    frames = frames_of(nusc, config.split)
    found = found_in(results, frames)
    source = {"root": str(config.root.absolute()), "version": config.version, "split": config.split}
    report = head_of(source, frames, found, config.min_score)
    if any(nusc.get("sample", token)["anns"] for token in frames.tokens):
        scores, tables = _score(config, nusc, results, frames, groups)
        report |= scores
    else:
        chosen = {"meta": results["meta"], "results": {token: results["results"][token] for token in frames.tokens}}
        write_whole(config.output / RESULTS, json.dumps(chosen, allow_nan=False))
        tables = [f"split '{config.split}' has no annotations: {len(found)} boxes counted, none scored"]
    path = config.output / REPORT
    write_whole(path, json.dumps(report, allow_nan=False))
    return "\n\n".join([*tables, f"report: {path}"])


def _score(
    config: ScoreConfig, nusc: NuScenes, results: Results, frames: Frames, groups: dict[str, Parts]
) -> tuple[dict[str, Any], list[str]]:
    evaluated = evaluate_boxes(nusc, results, config.split, config.output)
    truth, found = (table_of(boxes, frames.tokens) for boxes in (evaluated.truth, evaluated.found))
    scores, parts = scores_of(evaluated.metrics, truth, found, frames, groups, with_scenes=config.scenes)
    return scores, [evaluated.metrics.table(), *(_table(name, own) for name, own in parts.items())]


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

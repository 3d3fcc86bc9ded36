"""What scoring takes beside the nuScenes devkit's own evaluation, on generated frames."""

import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.benchmark.index import SAMPLES, VERSION, write_tables
from training.data.tables import open_tables
from training.evaluate.devkit import PROTOCOL
from training.score.parts import BAND_EDGES, distance_bands
from training.score.run import read_results
from training.score.schema import BANDS, REPORT
from training.score.whole_report import Scope, Subject, whole_report

SPLIT = "generated"
CATEGORIES = (  # of the detection classes, in their order
    *("vehicle.car", "vehicle.truck", "vehicle.construction", "vehicle.bus.rigid", "vehicle.trailer"),
    *("movable_object.barrier", "vehicle.motorcycle", "vehicle.bicycle", "human.pedestrian.adult"),
    "movable_object.trafficcone",
)
ATTRIBUTE = "cb5118da1ab342aa947717dc53544259"  # of the generated annotations


@dataclass(frozen=True, kw_only=True)
class ScoreBenchConfig:
    """What `bevdistill bench score` measures."""

    frames: int = 1000  # rounded up to whole scenes of 40
    boxes: int = 200  # detections a frame
    rounds: int = 2  # each way, in turn
    scenes: bool = True  # score each scene too
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.frames, self.boxes, self.rounds) < 1 or self.boxes > 500:
            raise ValueError("frames, boxes and rounds must be at least 1, and boxes at most 500")


def run_score_bench(config: ScoreBenchConfig) -> str:
    """Generate, score both ways in turn, compare; returns the table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        nusc = _database(root, -(-config.frames // SAMPLES))
        path = root / "results.json"
        write_whole(path, json.dumps(_results(nusc, config)))
        devkit, ours = [], []
        scores = set()
        for number in range(config.rounds):
            seconds, score = _timed(lambda number=number: _by_devkit(nusc, path, root / f"devkit{number}"))  # type: ignore[misc]
            devkit.append(seconds)
            scores.add(round(score, 12))
            seconds, score = _timed(lambda number=number: _by_us(nusc, path, root / f"ours{number}", config))  # type: ignore[misc]
            ours.append(seconds)
            scores.add(round(score, 12))
    assert len(scores) == 1, f"scores differ: {scores}"
    return "\n".join(
        [
            f"{len(nusc.sample)} frames, {config.boxes} detections each; CPU time, best of {config.rounds} in turn, "
            "tables loaded before",
            f"{'devkit: load, evaluate':<52}{min(devkit):>8.1f} s",
            f"{'bevdistill score: the same, bands, scenes, report':<52}{min(ours):>8.1f} s",
            f"{'ratio':<52}{min(ours) / min(devkit):>8.2f}",
        ]
    )


def _timed(work: Callable[[], float]) -> tuple[float, float]:
    """CPU time [s], which a busy machine does not stretch, and the result; both ways use one thread."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _by_devkit(nusc: NuScenes, path: Path, output: Path) -> float:
    with contextlib.redirect_stderr(io.StringIO()):
        evaluation = DetectionEval(nusc, config_factory(PROTOCOL), str(path), SPLIT, str(output), verbose=False)
        return float(evaluation.evaluate()[0].nd_score)


def _by_us(nusc: NuScenes, path: Path, output: Path, config: ScoreBenchConfig) -> float:
    scope = Scope(groups={BANDS: distance_bands(BAND_EDGES)}, with_scenes=config.scenes)
    report = whole_report(nusc, Subject(results=read_results(path)), SPLIT, scope, output)
    write_whole(output / REPORT, json.dumps(report.content, allow_nan=False))
    assert report.metrics is not None
    return report.metrics.nds


def _database(root: Path, scenes: int) -> NuScenes:
    """Tables of nuScenes' proportions, with objects of all classes."""
    folder = root / VERSION
    write_tables(folder, scenes)
    instances = json.loads((folder / "instance.json").read_text())
    for number, instance in enumerate(instances):
        instance["category_token"] = CATEGORIES[number % len(CATEGORIES)]
    tables: dict[str, Any] = {
        "instance": instances,
        "category": [{"token": name, "name": name} for name in CATEGORIES],
        "attribute": [{"token": ATTRIBUTE, "name": "vehicle.moving"}],
        "visibility": [{"token": "4", "level": "v80-100"}],
        "splits": {SPLIT: [f"scene-{scene:04}" for scene in range(scenes)]},
    }
    for name, content in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return open_tables(root, VERSION)


def _results(nusc: NuScenes, config: ScoreBenchConfig) -> dict[str, Any]:
    """Most objects found, each some metres off, and wrong boxes around them."""
    draw = np.random.default_rng(config.seed)
    names = dict(zip(CATEGORIES, CLASS_NAMES, strict=True))
    results = {}
    for sample in nusc.sample:
        truth = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        boxes = []
        for number in range(config.boxes):
            near = truth[number % len(truth)]
            spread = 1.0 if number < len(truth) else 6.0
            place = np.array(near["translation"]) + draw.normal(0.0, spread, 3)
            boxes.append(
                {
                    "sample_token": sample["token"],
                    "translation": place.tolist(),
                    "size": near["size"],
                    "rotation": near["rotation"],
                    "velocity": draw.normal(0.0, 2.0, 2).tolist(),
                    "detection_name": names[near["category_name"]],
                    "detection_score": float(draw.uniform(0.3 if number < len(truth) else 0.0, 1.0)),
                    "attribute_name": "",
                }
            )
        results[sample["token"]] = boxes
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    return {"meta": meta, "results": results}

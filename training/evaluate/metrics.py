"""nuScenes detection metrics, computed by the genuine devkit (`detection_cvpr_2019`)."""

import contextlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import compress
from pathlib import Path
from typing import Any, Self

from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from torch import Tensor

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.nuscenes import CLASS_NAMES, ERROR_NAMES
from bevdistill_ros.core.records import Detections
from training.data.index.arrays import scenes_of
from training.data.tables import splits_of
from training.evaluate.devkit import EvaluationInMemory
from training.evaluate.results import Results, results_from

BoxFilter = Callable[[str, Sequence[DetectionBox]], Sequence[bool]]  # sample token, boxes in the global frame

RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Detection metrics of one split."""

    split: str
    num_samples: int
    nds: float  # nuScenes detection score, 0...1
    mean_ap: float  # 0...1
    tp_errors: dict[str, float]  # by ERROR_NAMES, mean over classes
    class_ap: dict[str, float]  # by class, mean over the distance thresholds
    class_tp_errors: dict[str, dict[str, float | None]]  # by class and ERROR_NAMES; None where undefined

    def table(self) -> str:
        """Show the metrics as text, one line a class."""
        means = "  ".join(f"m{short} {self.tp_errors[name]:.3f}" for name, short in ERROR_NAMES.items())
        lines = [
            f"{self.split}: NDS {self.nds:.3f}  mAP {self.mean_ap:.3f}  {means}  ({self.num_samples} samples)",
            f"{'class':<22}" + "".join(f"{column:>8}" for column in ("AP", *ERROR_NAMES.values())),
        ]
        for name in CLASS_NAMES:
            errors = (self.class_tp_errors[name][error] for error in ERROR_NAMES)
            cells = (f"{value:>8.3f}" if value is not None else f"{'-':>8}" for value in (self.class_ap[name], *errors))
            lines.append(f"{name:<22}" + "".join(cells))
        return "\n".join(lines)

    def to_json(self) -> str:
        """JSON text; inverse of `from_json`."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; a ValueError names what is missing or unknown."""
        content = json.loads(text)
        expected = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            found = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"metrics must hold {sorted(expected)}, but hold {found}")
        return cls(**content)


def evaluate_detections(
    nusc: NuScenes,
    detections: Mapping[str, Detections],
    global_from_ego: Mapping[str, Tensor],
    split: str,
    output_dir: Path,
    *,
    uses_lidar: bool = False,
    keep: BoxFilter | None = None,
) -> Metrics:
    """Score detections of a whole split.

    Args:
        nusc: The database.
        detections: Sample token to detections in the ego frame, for every sample of the split.
        global_from_ego: Sample token to ego pose (4, 4) [m], see `NuScenesIndex.poses_of`.
        split: Name of the split.
        output_dir: Where results.json, metrics.json and the devkit's metrics_summary.json are written.
        uses_lidar: Whether LiDAR, not cameras, was the detector's input.
        keep: Which boxes count, of ground truth and detections alike; None: all, as the official score has it.

    Raises:
        ValueError: The split does not exist or has no annotations, or a sample of it has no entry in `detections`.
    """
    tokens = [token for token in split_tokens(nusc, split) if token in detections]
    results = results_from({token: detections[token] for token in tokens}, global_from_ego, uses_lidar=uses_lidar)
    return evaluate_results(nusc, results, split, output_dir, keep=keep)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Metrics of a split, and the boxes that they were counted on."""

    metrics: Metrics
    truth: EvalBoxes  # after the devkit's filters: range of the class, LiDAR points, bicycle racks
    found: EvalBoxes  # the same of the detections


def evaluate_results(
    nusc: NuScenes, results: Results, split: str, output_dir: Path, *, keep: BoxFilter | None = None
) -> Metrics:
    """Score what a results file holds; see `evaluate_detections`. Samples off the split are left out."""
    return evaluate_boxes(nusc, results, split, output_dir, keep=keep).metrics


def evaluate_boxes(
    nusc: NuScenes, results: Results, split: str, output_dir: Path, *, keep: BoxFilter | None = None
) -> Evaluated:
    """The same as `evaluate_results`, for what looks closer at the boxes."""
    tokens = split_tokens(nusc, split)
    _check_covered(results, tokens, split)
    check_scorable(nusc, split)
    chosen = {"meta": results["meta"], "results": {token: results["results"][token] for token in tokens}}
    write_whole(output_dir / RESULTS, json.dumps(chosen, allow_nan=False))
    evaluation, measured = _run_devkit(nusc, chosen["results"], split, keep)
    metrics = _metrics_from(measured, split, len(tokens))
    write_whole(output_dir / "metrics_summary.json", json.dumps(measured.serialize(), indent=2))
    write_whole(output_dir / "metrics.json", metrics.to_json())
    return Evaluated(metrics=metrics, truth=evaluation.gt_boxes, found=evaluation.pred_boxes)


def load_boxes(nusc: NuScenes, split: str, output_dir: Path) -> tuple[EvalBoxes, EvalBoxes]:
    """Ground truth and detections that an evaluation, whose folder this is, counted; see `Evaluated`."""
    results = json.loads((output_dir / RESULTS).read_text(encoding="utf-8"))["results"]
    evaluation = _evaluation(nusc, results, split)
    return evaluation.gt_boxes, evaluation.pred_boxes


def split_tokens(nusc: NuScenes, split: str) -> list[str]:
    """Tokens of the samples of a split; a ValueError lists the splits that there are."""
    root = Path(nusc.dataroot)
    names = scenes_of(splits_of(root, nusc.version), split, root / nusc.version)
    scenes = {scene["token"] for scene in nusc.scene if scene["name"] in names}
    tokens = [sample["token"] for sample in nusc.sample if sample["scene_token"] in scenes]
    if not tokens:
        raise ValueError(f"split '{split}' names no scene that {nusc.table_root} holds")
    return tokens


def _check_covered(results: Results, tokens: list[str], split: str) -> None:
    missing = [token for token in tokens if token not in results["results"]]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(tokens)} samples of split '{split}' have no detections, for example {missing[0]}; "
            "run the detector on the whole split, and give an empty record where it found nothing"
        )


def check_scorable(nusc: NuScenes, split: str) -> None:
    """Refuse a split that can't be scored, before anything is detected on it.

    Raises:
        ValueError: There is no such split, or it has no annotated box of a detection class.
    """
    tokens = split_tokens(nusc, split)
    annotations = (annotation for token in tokens for annotation in nusc.get("sample", token)["anns"])
    names = (nusc.get("sample_annotation", annotation)["category_name"] for annotation in annotations)
    if not any(category_to_detection_name(name) for name in names):
        raise ValueError(f"split '{split}' has no annotated box of a detection class, so nothing can be scored on it")


def _far_box(token: str) -> dict[str, Any]:
    return {
        "sample_token": token,
        "translation": [1e7, 1e7, 0.0],
        "size": [1.0, 1.0, 1.0],
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "velocity": [0.0, 0.0],
        "detection_name": CLASS_NAMES[0],
        "detection_score": 0.0,
        "attribute_name": "",
    }


def _run_devkit(
    nusc: NuScenes, results: Mapping[str, Any], split: str, keep: BoxFilter | None
) -> tuple[EvaluationInMemory, DetectionMetrics]:
    evaluation = _evaluation(nusc, results, split)
    if keep is not None:
        evaluation.gt_boxes, evaluation.pred_boxes = (
            _kept(boxes, keep) for boxes in (evaluation.gt_boxes, evaluation.pred_boxes)
        )
    measured, _ = evaluation.evaluate()
    return evaluation, measured


def _evaluation(nusc: NuScenes, results: Mapping[str, Any], split: str) -> EvaluationInMemory:
    if not any(results.values()):
        # The devkit fails where there is no box at all; a box off every class range is dropped before scoring.
        first = next(iter(results))
        results = {**results, first: [_far_box(first)]}
    # The devkit draws progress bars even when it is set to be quiet.
    with contextlib.redirect_stderr(io.StringIO()):
        return EvaluationInMemory(nusc, results, split)


def _kept(boxes: EvalBoxes, keep: BoxFilter) -> EvalBoxes:
    chosen = EvalBoxes()
    for token, own in boxes.boxes.items():
        chosen.add_boxes(token, list(compress(own, keep(token, own))))
    return chosen


def _metrics_from(measured: DetectionMetrics, split: str, num_samples: int) -> Metrics:
    def error(name: str, kind: str) -> float | None:
        value = float(measured.get_label_tp(name, kind))
        return None if math.isnan(value) else value

    return Metrics(
        split=split,
        num_samples=num_samples,
        nds=float(measured.nd_score),
        mean_ap=float(measured.mean_ap),
        tp_errors={name: float(measured.tp_errors[name]) for name in ERROR_NAMES},
        class_ap={name: float(measured.mean_dist_aps[name]) for name in CLASS_NAMES},
        class_tp_errors={name: {kind: error(name, kind) for kind in ERROR_NAMES} for name in CLASS_NAMES},
    )

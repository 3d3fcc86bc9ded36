"""A results file for a split whose annotations are not public, such as v1.0-test, as the evaluation server takes it."""

import json
from collections.abc import Mapping
from pathlib import Path

from nuscenes.eval.common.loaders import load_prediction
from nuscenes.eval.detection.data_classes import DetectionBox
from torch import Tensor

from bevdistill_ros.core.files import write_whole
from bevdistill_ros.core.records import Detections
from training.evaluate.results import MAX_BOXES, results_from

FILE = "results.json"


def write_submission(
    detections: Mapping[str, Detections],
    global_from_ego: Mapping[str, Tensor],
    output_dir: Path,
    *,
    uses_lidar: bool = False,
) -> Path:
    """Write detections of a whole split; the devkit reads the file back and checks it as the server does.

    Args:
        detections: Sample token to detections in the ego frame, for every sample of the split.
        global_from_ego: Sample token to ego pose (4, 4) [m], for every sample of the split.
        output_dir: Where results.json is written.
        uses_lidar: Whether LiDAR, not cameras, was the detector's input.

    Returns:
        The file.

    Raises:
        ValueError: A sample has no detections, or the devkit does not accept the file.
    """
    missing = [token for token in global_from_ego if token not in detections]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(global_from_ego)} samples have no detections, for example {missing[0]}; "
            "run the detector on the whole split"
        )
    path = output_dir / FILE
    results = results_from(detections, global_from_ego, uses_lidar=uses_lidar)
    write_whole(path, json.dumps(results, allow_nan=False))
    try:
        read, _ = load_prediction(str(path), MAX_BOXES, DetectionBox)
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"the devkit does not accept {path}: {error}") from error
    assert set(read.sample_tokens) == set(detections)
    return path

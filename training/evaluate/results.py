"""Detections as a nuScenes results file."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import transform_boxes
from bevdistill_ros.core.geometry import quaternion_from_yaw
from bevdistill_ros.core.nuscenes import CLASS_NAMES, attribute_of
from bevdistill_ros.core.records import Detections

MAX_BOXES = 500  # a sample; the devkit refuses more

Results = dict[str, Any]


def results_from(
    detections: Mapping[str, Detections], global_from_ego: Mapping[str, Tensor], *, uses_lidar: bool = False
) -> Results:
    """Put detections into the layout that nuScenes evaluates: global frame, attributes guessed from class and speed.

    Args:
        detections: Sample token to detections in the ego frame; of more than 500 the best are kept.
        global_from_ego: Sample token to the ego pose (4, 4) [m] of those detections.
        uses_lidar: Whether LiDAR, not cameras, was the detector's input; goes into the file's `meta`.

    Returns:
        What the results file holds, ready for JSON.

    Raises:
        ValueError: A sample has no pose, or a box or a score is not finite.
    """
    unplaced = [token for token in detections if token not in global_from_ego]
    if unplaced:
        raise ValueError(f"{len(unplaced)} samples with detections have no ego pose, for example {unplaced[0]}")
    meta = dict.fromkeys(("use_camera", "use_lidar", "use_radar", "use_map", "use_external"), False)
    meta["use_lidar" if uses_lidar else "use_camera"] = True
    boxes = {token: _entries(token, found, global_from_ego[token]) for token, found in detections.items()}
    return {"meta": meta, "results": boxes}


def _entries(token: str, detections: Detections, global_from_ego: Tensor) -> list[dict[str, Any]]:
    best = detections.above(-math.inf, at_most=MAX_BOXES)
    if not (torch.isfinite(detections.boxes).all() and torch.isfinite(detections.scores).all()):
        raise ValueError(f"detections of sample {token} hold values that are not finite; the model has diverged")
    boxes = transform_boxes(global_from_ego.double().cpu(), best.boxes.double().cpu())
    rows = zip(boxes.tolist(), best.scores.tolist(), best.labels.tolist(), strict=True)
    return [_entry(token, box, score, CLASS_NAMES[label]) for box, score, label in rows]


def _entry(token: str, box: list[float], score: float, name: str) -> dict[str, Any]:
    x, y, z, length, width, height, yaw, vx, vy = box
    return {
        "sample_token": token,
        "translation": [x, y, z],
        "size": [width, length, height],
        "rotation": quaternion_from_yaw(yaw).tolist(),
        "velocity": [vx, vy],
        "detection_name": name,
        "detection_score": score,
        "attribute_name": attribute_of(name, math.hypot(vx, vy)),
    }

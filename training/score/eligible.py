"""Detections that the nuScenes devkit counts: within the range of their class, and no bicycle in a bicycle rack."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.common.config import config_factory
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import Box
from nuscenes.utils.geometry_utils import points_in_box
from pyquaternion import Quaternion

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.evaluate.devkit import PROTOCOL
from training.evaluate.results import Results
from training.score.boxes import BoxTable

RACK = "static_object.bicycle_rack"
_CYCLES = ("bicycle", "motorcycle")


def eligible(found: BoxTable) -> NDArray[np.bool_]:
    """Which boxes lie within the range of their class."""
    limits = config_factory(PROTOCOL).class_range
    ranges = np.array([limits[name] for name in CLASS_NAMES], dtype=np.float64)
    return np.asarray(found.distance < ranges[found.label])


def off_racks(nusc: NuScenes, results: Results) -> Results:
    """The results without bicycles and motorcycles whose centre lies in a bicycle rack."""
    racks = _racks(nusc, results["results"])
    kept = {
        token: [box for box in boxes if box["detection_name"] not in _CYCLES or not _is_in(box, racks[token])]
        for token, boxes in results["results"].items()
        if racks.get(token)
    }
    return {**results, "results": {**results["results"], **kept}}


def _racks(nusc: NuScenes, tokens: Mapping[str, Any]) -> dict[str, list[Box]]:
    """Bicycle racks by sample, of samples that have some."""
    racks: dict[str, list[Box]] = {}
    for record in nusc.sample_annotation:
        if record["category_name"] == RACK and record["sample_token"] in tokens:
            box = Box(record["translation"], record["size"], Quaternion(record["rotation"]))
            racks.setdefault(record["sample_token"], []).append(box)
    return racks


def _is_in(box: Mapping[str, Any], racks: list[Box]) -> bool:
    place = np.array(box["translation"], dtype=np.float64)[:, None]
    return any(points_in_box(rack, place).any() for rack in racks)

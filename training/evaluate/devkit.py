"""The devkit's evaluation of results that are in memory already.

Ground truth, filters, matching and metrics are the devkit's own. Only the detections are not read from a file again and
not checked box by box, which takes it longer than all else; they are checked all at once.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt, load_gt_of_sample_tokens
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, DETECTION_NAMES
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.utils.splits import is_predefined_split

from bevdistill_ros.core.text import quote

PROTOCOL = "detection_cvpr_2019"
_WIDTHS = {"translation": 3, "size": 3, "rotation": 4, "velocity": 2}
_MAY_BE_UNKNOWN = ("velocity",)


class EvaluationInMemory(DetectionEval):
    """`DetectionEval` of detections that are given.

    Args:
        nusc: The data set.
        results: Boxes by sample, as a results file has them, for the samples of the split.
        split: Name of the split.

    Raises:
        ValueError: A box is not one of nuScenes, or a sample has too many.
    """

    def __init__(self, nusc: NuScenes, results: Mapping[str, Sequence[Mapping[str, Any]]], split: str) -> None:
        self.nusc, self.eval_set, self.verbose = nusc, split, False
        self.cfg = config_factory(PROTOCOL)
        crowded = [token for token, boxes in results.items() if len(boxes) > self.cfg.max_boxes_per_sample]
        if crowded:
            limit = self.cfg.max_boxes_per_sample
            raise ValueError(f"sample {crowded[0]} has {len(results[crowded[0]])} boxes; nuScenes allows {limit}")
        if is_predefined_split(split):
            truth = load_gt(nusc, split, DetectionBox)
        else:
            truth = load_gt_of_sample_tokens(nusc, list(results), DetectionBox)
        self.gt_boxes, self.pred_boxes = (
            filter_eval_boxes(nusc, add_center_dist(nusc, boxes), self.cfg.class_range)
            for boxes in (truth, boxes_of(results))
        )
        self.sample_tokens = self.gt_boxes.sample_tokens


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector where many boxes are made that all stay: it would go through them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def boxes_of(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> EvalBoxes:
    """The devkit's boxes of what a results file holds; a ValueError names what is not a box of nuScenes."""
    try:
        _check([box for own in results.values() for box in own])
        found = EvalBoxes()
        for token, own in results.items():
            found.boxes[token] = [_box(token, box) for box in own]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"results hold what is not a box of nuScenes: {type(error).__name__} {error}") from error
    return found


def _check(boxes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for what the devkit would refuse box by box."""
    for name, width in _WIDTHS.items():
        wrong = next((box[name] for box in boxes if len(box[name]) != width), None)
        if wrong is not None:
            raise ValueError(f"{name} must be {width} numbers, but is {quote(wrong)}")
        values = np.array([box[name] for box in boxes], dtype=np.float64)
        if name not in _MAY_BE_UNKNOWN and np.isnan(values).any():
            raise ValueError(f"a {name} is not a number")
    if np.isnan(np.array([box["detection_score"] for box in boxes], dtype=np.float64)).any():
        raise ValueError("a detection_score is not a number")
    for name, known in (("detection_name", DETECTION_NAMES), ("attribute_name", (*ATTRIBUTE_NAMES, ""))):
        unknown = {box[name] for box in boxes} - set(known)
        if unknown:
            raise ValueError(f"{name} {quote(sorted(unknown)[0])} is not known")


def _box(token: str, content: Mapping[str, Any]) -> DetectionBox:
    """A box that was checked already, without the devkit's checks."""
    box = DetectionBox.__new__(DetectionBox)
    box.__dict__ = {
        "sample_token": token,
        "translation": tuple(content["translation"]),
        "size": tuple(content["size"]),
        "rotation": tuple(content["rotation"]),
        "velocity": tuple(content["velocity"]),
        "ego_translation": (0.0, 0.0, 0.0),
        "num_pts": -1,
        "detection_name": content["detection_name"],
        "detection_score": float(content["detection_score"]),
        "attribute_name": content["attribute_name"],
    }
    return box

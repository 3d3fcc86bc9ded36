"""Frames of a report as pictures need them: images and points of the data set, ground truth and detections."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.boxes import transform_boxes
from bevdistill_ros.core.geometry import invert_rigid, matrix_from_quaternion, yaw_of
from bevdistill_ros.core.nuscenes import CLASS_NAMES, CLASS_RANGES
from bevdistill_ros.core.records import Detections
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.sample import Sample
from training.evaluate.detector import PICTURE
from training.score.boxes import BoxTable
from training.score.by_class import ERROR_THRESHOLD
from training.score.matching import rows_taken
from training.score.read import Report, read_json


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One frame, as it is drawn."""

    sample: Sample  # with the ground truth that the score counts
    detections: Detections  # those that are confident enough
    hit: Tensor  # (M,) bool, which detections hit
    missed: Tensor  # (T,) bool, which ground truth was not hit


class Scenes:
    """Frames of a report's data set.

    Args:
        report: Whose frames.
        root: The data set's folder.

    Raises:
        ValueError: The data set or the results can't be read.
    """

    def __init__(self, report: Report, root: Path) -> None:
        source = report.content["source"]
        index = load_index(DataConfig(root=root, version=str(source["version"]), num_sweeps=0))
        self._split = str(source["split"])
        self._has_points = bool(len(index.sweep_files))
        self._dataset = NuScenesDataset(
            index, self._split, cameras=index.cameras, target=PICTURE, num_sweeps=0, with_points=self._has_points
        )
        self._places = {index.token(int(number)): place for place, number in enumerate(self._dataset.samples)}
        self._poses = index.poses_of(self._split)
        self._results = read_json(report.results_path).get("results", {})
        self._least: Mapping[str, float] = report.content.get("operating_scores", {})
        self._least_of_all = float(report.content["detections"]["min_score"])
        self.cameras = self._dataset.cameras

    def frame(self, token: str, *, with_images: bool) -> Scene:
        """A frame by the token of its sample; without images it is read much faster."""
        self._dataset.with_images = with_images
        sample = self._dataset[self._places[token]]
        counted = torch.tensor(
            [
                float(box[:2].norm()) < CLASS_RANGES[CLASS_NAMES[int(label)]]
                and (int(points) > 0 or not self._has_points)
                for box, label, points in zip(sample.boxes, sample.labels, sample.num_lidar_points, strict=True)
            ],
            dtype=torch.bool,
        )
        sample = replace(
            sample,
            boxes=sample.boxes[counted],
            labels=sample.labels[counted],
            num_lidar_points=sample.num_lidar_points[counted],
        )
        detections = self._detections(token, sample.stamp_ns)
        hit, missed = _compared(sample, detections)
        return Scene(sample=sample, detections=detections, hit=hit, missed=missed)

    def _detections(self, token: str, stamp_ns: int) -> Detections:
        boxes = [box for box in self._results.get(token, []) if self._is_confident(box)]
        if not boxes:
            return Detections.empty(stamp_ns)
        ego = transform_boxes(invert_rigid(self._poses[token]), torch.tensor([_row(box) for box in boxes]).double())
        labels = torch.tensor([CLASS_NAMES.index(box["detection_name"]) for box in boxes])
        near = torch.tensor([CLASS_RANGES[box["detection_name"]] for box in boxes]) > ego[:, :2].norm(dim=1)
        scores = torch.tensor([float(box["detection_score"]) for box in boxes])
        return Detections(stamp_ns=stamp_ns, boxes=ego[near].float(), scores=scores[near], labels=labels[near])

    def _is_confident(self, box: Mapping[str, Any]) -> bool:
        return float(box["detection_score"]) >= self._least.get(box["detection_name"], self._least_of_all)


def _row(box: Mapping[str, Any]) -> list[float]:
    """A box of a results file as (9,) of core.boxes, global frame."""
    width, length, height = box["size"]
    yaw = yaw_of(matrix_from_quaternion(np.array(box["rotation"])))
    return [*box["translation"], length, width, height, yaw, *np.nan_to_num(box["velocity"])]


def _compared(sample: Sample, detections: Detections) -> tuple[Tensor, Tensor]:
    """Which detections hit at 2 m (M,), and which ground truth was missed (T,)."""
    truth = _table(sample.boxes, sample.labels, torch.full((len(sample.boxes),), -1.0))
    found = _table(detections.boxes, detections.labels, detections.scores)
    taken = rows_taken(truth, found)[:, ERROR_THRESHOLD]
    missed = torch.ones(len(truth), dtype=torch.bool)
    missed[torch.from_numpy(taken[taken >= 0])] = False
    return torch.from_numpy(taken >= 0), missed


def _table(boxes: Tensor, labels: Tensor, scores: Tensor) -> BoxTable:
    plain = boxes.double().numpy()
    return BoxTable(
        frame=np.zeros(len(plain), dtype=np.int64),
        label=labels.numpy().astype(np.int64),
        centre=plain[:, :2],
        size=plain[:, [4, 3, 5]],
        yaw=plain[:, 6],
        velocity=plain[:, 7:9],
        attribute=np.full(len(plain), ""),
        score=scores.double().numpy(),
        distance=np.linalg.norm(plain[:, :2], axis=1),
    )

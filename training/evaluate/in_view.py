"""Which boxes of a split the cameras of a student show, for a score of these alone beside the official one."""

from collections.abc import Sequence

import numpy as np
import torch
from nuscenes.eval.detection.data_classes import DetectionBox
from torch import Tensor

from bevdistill_ros.core.boxes import transform_boxes
from bevdistill_ros.core.geometry import invert_rigid, matrix_from_quaternion, yaw_of
from training.data.dataset import NuScenesDataset
from training.data.visibility import boxes_in_view


class CameraView:
    """What the cameras of a data set show, sample by sample; occlusion does not count.

    Args:
        dataset: The split as the student sees it.
    """

    def __init__(self, dataset: NuScenesDataset) -> None:
        self._dataset = dataset
        self._numbers = {dataset.index.token(int(number)): int(number) for number in dataset.samples}

    def __call__(self, token: str, boxes: Sequence[DetectionBox]) -> list[bool]:
        """Whether a camera shows each of the boxes, global frame, of a sample."""
        if not boxes:
            return []
        number = self._numbers[token]
        rig, valid = self._dataset.rig_of(number)
        ego_from_global = invert_rigid(torch.from_numpy(self._dataset.index.global_from_ego[number]))
        own = transform_boxes(ego_from_global, torch.stack([_box_of(box) for box in boxes]))
        return list(boxes_in_view(own, rig.image_from_ego(), valid, rig.image_size).tolist())


def _box_of(box: DetectionBox) -> Tensor:
    """A box of the devkit as (9,) float64 of core.boxes."""
    width, length, height = box.size
    yaw = yaw_of(matrix_from_quaternion(np.array(box.rotation)))
    return torch.tensor([*box.translation, length, width, height, yaw, 0.0, 0.0], dtype=torch.float64)

"""One scene through the detector: its boxes in the global frame, and the points in them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from scipy.spatial import KDTree

from bevdistill_ros.core.boxes import points_in_boxes, transform_boxes
from bevdistill_ros.core.geometry import invert_rigid
from bevdistill_ros.core.grid import BevGrid
from training.data.dataset import NuScenesDataset
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig
from training.evaluate.detector import Detector, load_detector
from training.evaluate.run import detect_split
from training.label.records import FrameBoxes, Track
from training.teacher.mmdet3d_config import Mmdet3dConfig


@lru_cache(maxsize=1)
def detector_of(checkpoint: str, device: str, mmdet3d_config: str) -> Detector:
    """The detector of a checkpoint, once in a process."""
    return load_detector(checkpoint, device, Mmdet3dConfig(config=mmdet3d_config))


def dataset_of(detector: Detector, data: DataConfig, scenes: Sequence[str]) -> NuScenesDataset:
    """Some scenes as a detector sees them.

    Raises:
        ValueError: A scene lacks LiDAR or cameras that the detector needs.
    """
    dataset = detector.dataset(data, data.train_split)
    wanted = np.isin(
        dataset.index.scene_names[dataset.index.scenes[dataset.samples]], [name.encode() for name in scenes]
    )
    dataset.samples = dataset.samples[wanted]
    return dataset


def detected(
    detector: Detector, dataset: NuScenesDataset, *, batch_size: int, progress: bool = False
) -> list[FrameBoxes]:
    """What a detector finds in the frames of a data set, in their order."""
    found = detect_split(detector, dataset, batch_size=batch_size, num_workers=0, progress=progress)
    frames = []
    for number in dataset.samples:
        token = dataset.index.token(int(number))
        boxes = found[token].boxes.double()
        if not bool(torch.isfinite(boxes[:, :7]).all()):
            raise ValueError(f"detections of sample {token} are not finite; the model has diverged")
        frames.append(
            FrameBoxes(
                token=token,
                stamp_ns=int(dataset.index.stamps_ns[number]),
                boxes=transform_boxes(torch.tensor(dataset.index.global_from_ego[number]), boxes).numpy(),
                scores=found[token].scores.double().numpy(),
                labels=found[token].labels.numpy(),
            )
        )
    return frames


def with_points(dataset: NuScenesDataset, frames: Sequence[FrameBoxes], min_points: int) -> list[FrameBoxes]:
    """The boxes that hold so many LiDAR points of their key frame, without those of sweeps."""
    kept = []
    for number, frame in zip(dataset.samples, frames, strict=True):
        counts = _points_in(dataset, int(number), frame.boxes)
        kept.append(frame.rows(counts >= min_points))
    return kept


def annotated(index: NuScenesIndex, samples: Iterable[int], grid: BevGrid) -> list[FrameBoxes]:
    """The annotations of some samples that a LiDAR detector can find, each with a score of 1: on its grid, and with at
    least one point."""
    frames = []
    for number in samples:
        rows = index.boxes_of(int(number))
        boxes = torch.tensor(index.boxes[rows]).double()
        kept = grid.contains(boxes[:, :3]).numpy() & (index.num_lidar_points[rows] > 0)
        in_global = transform_boxes(torch.tensor(index.global_from_ego[number]), boxes)
        frames.append(
            FrameBoxes(
                token=index.token(int(number)),
                stamp_ns=int(index.stamps_ns[number]),
                boxes=in_global.numpy()[kept],
                scores=np.ones(int(kept.sum())),
                labels=index.labels[rows][kept],
            )
        )
    return frames


def points_in_labels(dataset: NuScenesDataset, tracks: Sequence[Track]) -> dict[tuple[int, int], int]:
    """LiDAR points of the key frame, without sweeps, in each label: by the track's number and the frame."""
    counts: dict[tuple[int, int], int] = {}
    of_frame: dict[int, list[tuple[int, np.ndarray]]] = {}
    for number, track in enumerate(tracks):
        for label in track.labels:
            of_frame.setdefault(label.frame, []).append((number, label.box))
    for frame, labels in of_frame.items():
        inside = _points_in(dataset, int(dataset.samples[frame]), np.stack([box for _, box in labels]))
        counts |= {(number, frame): int(count) for (number, _), count in zip(labels, inside, strict=True)}
    return counts


def _points_in(dataset: NuScenesDataset, sample: int, boxes: np.ndarray) -> np.ndarray:
    """Points of a sample's key frame in each of some boxes (M, 9) of the global frame: (M,) int64."""
    in_ego = transform_boxes(invert_rigid(torch.tensor(dataset.index.global_from_ego[sample])), torch.tensor(boxes))
    points = dataset.key_frame_points(sample)[:, :3].double()
    if not len(points):
        return np.zeros(len(boxes), dtype=np.int64)
    # Each box is tried with the points around it alone, since a frame has hundreds of boxes and 100,000 points.
    around = KDTree(points[:, :2].numpy()).query_ball_point(
        in_ego[:, :2].numpy(), in_ego[:, 3:5].norm(dim=1).numpy() / 2
    )
    counts = [points_in_boxes(points[rows], box[None]).sum() for rows, box in zip(around, in_ego, strict=True)]
    return np.array(counts, dtype=np.int64)

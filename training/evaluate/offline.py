"""Detections of a trained model on a split of a data set, and their official score."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.core.rig import NUSCENES_CAMERAS
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.outputs import BevMemory
from bevdistill_ros.model.postprocess import detections_from
from training.checkpoint import read_checkpoint, read_config
from training.data.nuscenes import DataConfig, NuScenesDataset, load_index
from training.data.tables import open_tables
from training.data.sample import Batch, Sample, collate
from training.evaluate.metrics import Metrics, evaluate_detections
from training.models import dataset_for, load_student, load_teacher


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bevdistill evaluate` scores."""

    source: str  # bundle folder, or checkpoint of a teacher or student
    data: DataConfig = field(default_factory=DataConfig)
    split: str = ""  # empty takes data.val_split
    output: str = "runs/evaluate"
    device: str = "cpu"
    batch_size: int = 4
    num_workers: int = 2
    progress: bool = True


class Detector(Protocol):
    """A trained detector, teacher or student, with what is needed to feed it."""

    name: str
    cameras: tuple[str, ...]
    grid: BevGrid

    def dataset(self, data: DataConfig, split: str, *, with_images: bool, with_points: bool) -> NuScenesDataset:
        """The split as this detector sees it; what it needs is always read, the rest on request."""

    def detect(self, batch: Batch) -> list[Detections]:
        """Detections of each frame of a batch; a temporal student remembers the batch before."""

    def detect_alone(self, sample: Sample) -> Detections:
        """Detections of one frame, without memory of frames before it."""


class TeacherDetector:
    """The LiDAR teacher as a detector."""

    name = "teacher"
    cameras = NUSCENES_CAMERAS
    # The teacher's frames carry images only for pictures, at this size.
    _picture = StudentConfig(image_height=256, image_width=448)

    def __init__(self, path: str, device: str) -> None:
        self._model = load_teacher(path).to(device)
        self._device = device
        self.grid = self._model.grid

    def dataset(self, data: DataConfig, split: str, *, with_images: bool, with_points: bool) -> NuScenesDataset:
        return dataset_for(data, self._picture, load_index(data), split, with_images=with_images, with_points=True)

    def detect(self, batch: Batch) -> list[Detections]:
        output = self._model(batch.to(self._device).points)
        return detections_from(output.predictions, batch.stamps_ns, grid=self.grid)

    def detect_alone(self, sample: Sample) -> Detections:
        return self.detect(collate([sample]))[0]


class StudentDetector:
    """The camera student as a detector; a temporal one is fed frame by frame."""

    name = "student"

    def __init__(self, config: StudentConfig, model: BevFormer, device: str) -> None:
        self._config, self._model, self._device = config, model.to(device).eval(), device
        self._previous: BevMemory | None = None
        self.cameras, self.grid = config.cameras, config.grid

    def dataset(self, data: DataConfig, split: str, *, with_images: bool, with_points: bool) -> NuScenesDataset:
        return dataset_for(data, self._config, load_index(data), split, with_images=True, with_points=with_points)

    @torch.inference_mode()
    def detect(self, batch: Batch) -> list[Detections]:
        batch = batch.to(self._device)
        if self._config.temporal and len(batch) != 1:
            raise ValueError(
                f"a temporal student sees one frame after the other: batch_size must be 1, but is {len(batch)}"
            )
        starts_scene = not batch.history or not bool(batch.history_present[-1, 0])
        output = self._model(batch.cameras, None if starts_scene else self._previous)
        if self._config.temporal:
            present = torch.ones(1, dtype=torch.bool, device=self._device)
            pose = batch.cameras.global_from_ego
            self._previous = BevMemory(bev=output.bev, global_from_ego=pose, present=present)
        return detections_from(output.predictions, batch.stamps_ns, grid=self.grid)

    def detect_alone(self, sample: Sample) -> Detections:
        self._previous = None
        return self.detect(collate([sample]))[0]


def load_detector(source: str, device: str = "cpu") -> Detector:
    """A detector from a bundle folder, or from a checkpoint of a teacher or a student."""
    if not source:
        raise ValueError("source is empty: give a bundle folder or a checkpoint")
    if Path(source).is_dir():
        bundle = load_bundle(source)
        return StudentDetector(bundle.manifest.student, bundle.student, device)
    if read_config(read_checkpoint(source))["role"] == "teacher":
        return TeacherDetector(source, device)
    return StudentDetector(*load_student(source), device)


def detect_split(
    detector: Detector, dataset: NuScenesDataset, *, batch_size: int, num_workers: int, progress: bool
) -> dict[str, Detections]:
    """Detections of every frame of a split by sample token."""
    loader: DataLoader[Sample] = DataLoader(dataset, batch_size, collate_fn=collate, num_workers=num_workers)
    detections: dict[str, Detections] = {}
    for batch in tqdm(loader, desc="detect", unit="batch", disable=not progress):
        found = detector.detect(batch)
        detections |= dict(zip(batch.tokens, (to_cpu(entry) for entry in found), strict=True))
    return detections


def to_cpu(detections: Detections) -> Detections:
    """The same detections in main memory."""
    return Detections(
        stamp_ns=detections.stamp_ns,
        boxes=detections.boxes.cpu(),
        scores=detections.scores.cpu(),
        labels=detections.labels.cpu(),
    )


def evaluate(config: EvaluateConfig) -> Metrics:
    """Score a model on a split; `<output>` gets the results file and the metrics."""
    detector = load_detector(config.source, config.device)
    split = config.split or config.data.val_split
    dataset = detector.dataset(config.data, split, with_images=False, with_points=False)
    is_temporal = isinstance(detector, StudentDetector) and detector._config.temporal
    detections = detect_split(
        detector,
        dataset,
        batch_size=1 if is_temporal else config.batch_size,
        num_workers=config.num_workers,
        progress=config.progress,
    )
    tables = open_tables(Path(config.data.root), config.data.version)
    poses = dataset.index.poses_of(split)
    uses_lidar = detector.name == "teacher"
    return evaluate_detections(tables, detections, poses, split, Path(config.output), uses_lidar=uses_lidar)


def run_evaluate(config: EvaluateConfig) -> str:
    """Score and describe; returns the closing text."""
    metrics = evaluate(config)
    return f"{metrics.table()}\nresults: {config.output}"

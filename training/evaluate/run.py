"""Detections of a trained model on a split of a data set, and their official score."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.engine import device_from
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import BevMemory
from training.data.dataset import DataConfig, NuScenesDataset, load_index
from training.data.sample import Batch, Sample, collate
from training.data.tables import open_tables
from training.evaluate.metrics import Metrics, evaluate_detections
from training.evaluate.submission import write_submission
from training.teacher.load import load_student, trained_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.weights.checkpoint import read_checkpoint, read_config

PICTURE_SIZE = (252, 448)  # [px] height and width of the images that a teacher's frames carry for pictures


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bevdistill evaluate` scores."""

    source: str  # bundle folder, or checkpoint of a teacher or student
    mmdet3d: Mmdet3dConfig = field(default_factory=Mmdet3dConfig)  # where source is a checkpoint of mmdet3d
    data: DataConfig = field(default_factory=DataConfig)
    split: str = ""  # empty takes data.val_split
    output: str = "runs/evaluate"  # folder for results.json and metrics.json
    device: str = "auto"  # auto, cpu, cuda or cuda:<index>; auto is the GPU where there is one
    batch_size: int = 4  # frames at once; a temporal student takes one
    num_workers: int = 2  # processes that load data
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size must be at least 1 and num_workers at least 0, but they are {self.batch_size} and "
                f"{self.num_workers}"
            )


class Detector(Protocol):
    """A trained detector, teacher or student, with what is needed to feed it."""

    name: str
    grid: BevGrid
    uses_lidar: bool
    is_temporal: bool  # it must see the frames of a scene one after the other

    def dataset(self, data: DataConfig, split: str, *, for_pictures: bool = False) -> NuScenesDataset:
        """The split as this detector sees it; for pictures with images and points, whatever it needs itself."""

    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        """Detections of each frame of a batch, on the CPU.

        Args:
            batch: Frames.
            continues: Whether the frame follows that of the call before, so that a temporal student may remember it.
        """


class TeacherDetector:
    """The LiDAR teacher as a detector; it sees as many sweeps as in training.

    Args:
        path: Its checkpoint.
        device: Where it runs.
        mmdet3d: Which detector of mmdet3d it is, if it is one.
    """

    name = "teacher"
    uses_lidar = True
    is_temporal = False

    def __init__(self, path: str, device: torch.device, mmdet3d: Mmdet3dConfig | None = None) -> None:
        trained = trained_teacher(path, mmdet3d or Mmdet3dConfig())
        self._teacher, self._device = trained.teacher.to(device), device
        self._num_sweeps, self._least_score = trained.num_sweeps, trained.least_score
        self.grid = trained.grid

    def dataset(self, data: DataConfig, split: str, *, for_pictures: bool = False) -> NuScenesDataset:
        index = load_index(replace(data, num_sweeps=self._num_sweeps))
        height, width = PICTURE_SIZE
        return NuScenesDataset(
            index,
            split,
            cameras=index.cameras,
            height=height,
            width=width,
            num_sweeps=self._num_sweeps,
            with_images=for_pictures,
        )

    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        frames = batch.to(self._device)
        predictions = self._teacher(frames.points, frames.ego_from_lidar).predictions
        assert predictions is not None
        found = detections_from(predictions, batch.stamps_ns, grid=self.grid)
        return [_on_cpu(detections.above(self._least_score)) for detections in found]


class StudentDetector:
    """The camera student as a detector.

    Args:
        model: The student.
        device: Where it runs.
    """

    name = "student"
    uses_lidar = False

    def __init__(self, model: BevFormer, device: torch.device) -> None:
        self._model, self._device = model.to(device).eval(), device
        self._previous: BevMemory | None = None
        self.grid, self.is_temporal = model.config.grid, model.config.temporal

    def dataset(self, data: DataConfig, split: str, *, for_pictures: bool = False) -> NuScenesDataset:
        config = self._model.config
        return NuScenesDataset(
            load_index(data),
            split,
            cameras=config.cameras,
            height=config.image_height,
            width=config.image_width,
            num_sweeps=0,
            with_points=for_pictures,
        )

    @torch.no_grad()
    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        cameras = batch.cameras.to(self._device)
        assert not self.is_temporal or len(batch) == 1, "a temporal student sees one frame after the other"
        output = self._model(cameras, self._previous if continues else None)
        if self.is_temporal:
            present = torch.ones(1, dtype=torch.bool, device=self._device)
            self._previous = BevMemory(bev=output.bev, global_from_ego=cameras.global_from_ego, present=present)
        return [_on_cpu(found) for found in detections_from(output.predictions, batch.stamps_ns, grid=self.grid)]


def load_detector(source: str, device: str = "auto", mmdet3d: Mmdet3dConfig | None = None) -> Detector:
    """A detector from a bundle folder, or from a checkpoint of a teacher, a student or, where it is named, mmdet3d.

    Raises:
        ValueError: There is none, it is damaged, or there is no such device.
    """
    if not source:
        raise ValueError("source is empty: give a bundle folder or a checkpoint")
    place = device_from(device)
    if Path(source).is_dir():
        return StudentDetector(load_bundle(source).student, place)
    if mmdet3d is not None and mmdet3d.config:
        return TeacherDetector(source, place, mmdet3d)
    if read_config(read_checkpoint(source))["role"] == "teacher":
        return TeacherDetector(source, place)
    return StudentDetector(load_student(source)[1], place)


def detect_split(
    detector: Detector, dataset: NuScenesDataset, *, batch_size: int, num_workers: int, progress: bool
) -> dict[str, Detections]:
    """Detections of every frame of a split by sample token; memory goes from frame to frame inside a scene only."""
    size = 1 if detector.is_temporal else batch_size
    loader: DataLoader[Sample] = DataLoader(dataset, size, collate_fn=collate, num_workers=num_workers)
    detections: dict[str, Detections] = {}
    before = -1
    for batch, first in zip(
        tqdm(loader, desc="detect", unit="batch", disable=not progress), dataset.samples[::size], strict=True
    ):
        continues = detector.is_temporal and before >= 0 and int(dataset.index.previous[first]) == before
        found = detector.detect(batch, continues=continues)
        detections |= dict(zip(batch.tokens, found, strict=True))
        before = int(first)
    return detections


def evaluate(config: EvaluateConfig) -> Metrics:
    """Score a model on a split; `<output>` gets the results file and the metrics.

    Raises:
        ValueError: The model or the data can't be read, or the split has nothing to score.
    """
    return _score(config, *_prepare(config))


def run_evaluate(config: EvaluateConfig) -> str:
    """Score and describe, or write a submission where there is nothing to score with; returns the closing text."""
    detector, dataset = _prepare(config)
    if len(dataset.index.labels):
        return f"{_score(config, detector, dataset).table()}\nresults: {config.output}"
    detections = _detect(config, detector, dataset)
    poses = dataset.index.poses_of(config.split or config.data.val_split)
    path = write_submission(detections, poses, Path(config.output), uses_lidar=detector.uses_lidar)
    return f"{config.data.version} has no annotations to score with\nsubmission: {path}"


def _prepare(config: EvaluateConfig) -> tuple[Detector, NuScenesDataset]:
    detector = load_detector(config.source, config.device, config.mmdet3d)
    return detector, detector.dataset(config.data, config.split or config.data.val_split)


def _score(config: EvaluateConfig, detector: Detector, dataset: NuScenesDataset) -> Metrics:
    split = config.split or config.data.val_split
    tables = open_tables(Path(config.data.root), config.data.version)
    return evaluate_detections(
        tables,
        _detect(config, detector, dataset),
        dataset.index.poses_of(split),
        split,
        Path(config.output),
        uses_lidar=detector.uses_lidar,
    )


def _detect(config: EvaluateConfig, detector: Detector, dataset: NuScenesDataset) -> dict[str, Detections]:
    return detect_split(
        detector,
        dataset,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        progress=config.progress,
    )


def _on_cpu(detections: Detections) -> Detections:
    return Detections(
        stamp_ns=detections.stamp_ns,
        boxes=detections.boxes.cpu(),
        scores=detections.scores.cpu(),
        labels=detections.labels.cpu(),
    )

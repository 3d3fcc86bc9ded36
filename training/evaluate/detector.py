"""Detectors that are evaluated: a teacher or a student, from a checkpoint or a bundle."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.inference.bundle import Bundle, load_bundle
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines.choice import open_network
from bevdistill_ros.inference.engines.reference import capacity_of
from bevdistill_ros.model.fit import ImageTarget
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import BevMemory, CameraInput
from bevdistill_ros.model.student import CameraStudent
from training.data.coverage import check_coverage
from training.data.dataset import NuScenesDataset
from training.data.index.load import DataConfig, load_index
from training.data.sample import Batch
from training.teacher.load import trained_teacher
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.weights.checkpoint import read_checkpoint, read_config
from training.weights.model import load_student

PICTURE = ImageTarget(height=252, width=448, policy="pad")  # images that a teacher's frames carry for pictures


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

    def bev(self, batch: Batch) -> Tensor:
        """The BEV map (B, C, rows, cols) of each frame, on the CPU; a teacher's is that which students imitate."""


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
        return NuScenesDataset(
            index,
            split,
            cameras=index.cameras,
            target=PICTURE,
            num_sweeps=self._num_sweeps,
            with_images=for_pictures,
        )

    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        frames = batch.to(self._device)
        predictions = self._teacher(frames.points, frames.ego_from_lidar).predictions
        assert predictions is not None
        found = detections_from(predictions, batch.stamps_ns, grid=self.grid)
        return [detections.above(self._least_score).cpu() for detections in found]

    def bev(self, batch: Batch) -> Tensor:
        frames = batch.to(self._device)
        said = self._teacher(frames.points, frames.ego_from_lidar)
        return said.map_of().cpu()


class StudentDetector:
    """The camera student as a detector.

    Args:
        model: The student.
        device: Where it runs.
    """

    name = "student"
    uses_lidar = False

    def __init__(self, model: CameraStudent, device: torch.device) -> None:
        self._model, self._device = model.to(device).eval(), device
        self._previous: BevMemory | None = None
        self.grid, self.is_temporal = model.config.grid, model.config.temporal

    def dataset(self, data: DataConfig, split: str, *, for_pictures: bool = False) -> NuScenesDataset:
        config = self._model.config
        index = load_index(data)
        dataset = NuScenesDataset(
            index,
            split,
            cameras=config.cameras,
            target=config.images,
            num_sweeps=0,
            with_points=for_pictures and bool(data.lidar),
        )
        check_coverage(index, split, config, refuse=False)
        return dataset

    @torch.no_grad()
    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        cameras = batch.cameras.to(self._device)
        assert not self.is_temporal or len(batch) == 1, "a temporal student sees one frame after the other"
        output = self._model(cameras, self._previous if continues else None)
        if self.is_temporal:
            present = torch.ones(1, dtype=torch.bool, device=self._device)
            self._previous = BevMemory(bev=output.bev, global_from_ego=cameras.global_from_ego, present=present)
        found = detections_from(output.predictions, batch.stamps_ns, grid=self._model.config.region)
        return [detections.cpu() for detections in found]

    @torch.no_grad()
    def bev(self, batch: Batch) -> Tensor:
        output = self._model(batch.cameras.to(self._device), None)
        return self._model.map_in_ego(output.bev).cpu()


class EngineDetector(StudentDetector):
    """The camera student of a bundle as a detector, run by an engine, frame by frame.

    Args:
        bundle: The student and its exported networks.
        choice: Which engine runs it, and how.

    Raises:
        EngineError: The engine cannot run the bundle, or failed its proof.
    """

    def __init__(self, bundle: Bundle, choice: EngineChoice) -> None:
        super().__init__(bundle.student, device_from("cpu"))
        self.network = open_network(bundle, choice).network
        self._least = capacity_of(bundle.manifest.student, bundle.manifest.rig)

    @torch.inference_mode()
    def detect(self, batch: Batch, *, continues: bool = False) -> list[Detections]:
        found = []
        for number, stamp_ns in enumerate(batch.stamps_ns):
            cameras = _item_of(batch.cameras, number)
            previous = self._previous if continues else None
            geometry = self._model.geometry.of(cameras, previous, self._least)
            answer = self.network(cameras.images, geometry, previous.bev if previous else None)
            if self.is_temporal:
                present = torch.ones(1, dtype=torch.bool)
                self._previous = BevMemory(bev=answer.bev, global_from_ego=cameras.global_from_ego, present=present)
            found += detections_from(answer, [stamp_ns], grid=self._model.config.region)
        return [detections.cpu() for detections in found]


def load_detector(
    source: str, device: str = "auto", mmdet3d: Mmdet3dConfig | None = None, choice: EngineChoice | None = None
) -> Detector:
    """A detector from a bundle folder, or from a checkpoint of a teacher, a student or, where it is named, mmdet3d.

    Args:
        source: The folder or the file.
        device: Where torch runs it.
        mmdet3d: Which detector of mmdet3d the checkpoint is of, if it is one.
        choice: The engine of a bundle; None for torch, in batches.

    Raises:
        ValueError: There is none, it is damaged, or there is no such device or engine.
    """
    if not source:
        raise ValueError("source is empty: give a bundle folder or a checkpoint")
    if choice is not None:
        if not Path(source).is_dir():
            raise ValueError(f"engine {choice.engine} runs bundles; '{source}' is none: export the checkpoint first")
        return EngineDetector(load_bundle(source), choice)
    place = device_from(device)
    if Path(source).is_dir():
        return StudentDetector(load_bundle(source).student, place)
    if mmdet3d is not None and mmdet3d.config:
        return TeacherDetector(source, place, mmdet3d)
    if read_config(read_checkpoint(source))["role"] == "teacher":
        return TeacherDetector(source, place)
    return StudentDetector(load_student(source)[1], place)


def _item_of(cameras: CameraInput, number: int) -> CameraInput:
    """One frame of a batch, with batch size 1."""
    known = {field.name: getattr(cameras, field.name) for field in fields(cameras)}
    return replace(cameras, **{name: value[number : number + 1] for name, value in known.items() if value is not None})

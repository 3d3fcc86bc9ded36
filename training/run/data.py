"""The samples of a training run."""

from collections.abc import Callable, Sequence

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from training.data.augment import BevAugment, Compose, GridMask, PhotometricAugment, RangeFilter
from training.data.census import check_boxes
from training.data.coverage import check_coverage
from training.data.dataset import NuScenesDataset, dataset_for
from training.data.index.load import load_index
from training.data.loader import SteadyLoader
from training.data.object_bank import ObjectBank, PasteObjects, bank_folder
from training.data.sample import Batch, Sample, collate
from training.data.sampler import SeededDataset, StepBatchSampler, class_balanced_indices
from training.run.config import TrainConfig


def train_dataset(config: TrainConfig) -> NuScenesDataset:
    """The training split with what the run needs of it, augmented."""
    is_teacher = config.role == "teacher"
    index = load_index(config.data)

    def dataset(augment: Compose | None) -> NuScenesDataset:
        return dataset_for(
            config.data,
            config.camera_student,
            index,
            config.data.train_split,
            with_images=not is_teacher,
            with_points=is_teacher or config.distill.method != "none",
            drop_frame=config.augment.drop_frame,
            augment=augment,
        )

    if not is_teacher:
        check_coverage(index, config.data.train_split, config.student, refuse=True)
    first: list[Callable[[Sample], Sample]] = []
    if config.augment.paste is not None:
        bank = ObjectBank.load(bank_folder(config.data), dataset(None))
        first.append(PasteObjects(bank, config.augment.paste.objects))
    return dataset(_augment(config, first))


class TrainData(pl.LightningDataModule):
    """The training samples of the steps still to do, as this process of the run takes them.

    Args:
        config: The run.
        first_step: Steps that are done already.

    Raises:
        ValueError: There is no such data, or no such split.
    """

    def __init__(self, config: TrainConfig, first_step: int) -> None:
        super().__init__()
        self._config, self._first_step = config, first_step
        self._dataset = train_dataset(config)
        grid = config.teacher.grid if config.role == "teacher" else config.student.grid
        is_unlabelled = not self._dataset.index.annotated[self._dataset.samples].any()
        if config.distill.method == "none" or not is_unlabelled:
            check_boxes(self._dataset.index, config.data.train_split, grid, config.augment.min_lidar_points)
        self._positions: Sequence[int] = range(len(self._dataset))
        if config.optim.class_balanced:
            self._positions = class_balanced_indices(
                self._dataset.index, config.data.train_split, seed=config.optim.seed
            )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device, non_blocking=True)

    def train_dataloader(self) -> DataLoader[Sample]:
        assert self.trainer is not None
        sampler = StepBatchSampler(
            self._positions,
            batch_size=self._config.optim.batch_size,
            steps=self._config.optim.steps,
            seed=self._config.optim.seed,
            first_step=self._first_step,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            accumulate=self._config.optim.accumulate,
        )
        return SteadyLoader(
            SeededDataset(self._dataset),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self._config.run.num_workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",  # copies to the GPU need not wait then
        )


def _augment(config: TrainConfig, first: Sequence[Callable[[Sample], Sample]]) -> Compose:
    """What is done to each training sample after some first changes; boxes and points off the grid go last."""
    is_teacher = config.role == "teacher"
    steps = list(first)
    if config.augment.photometric is not None and not is_teacher:
        steps.append(PhotometricAugment(config.augment.photometric, config.camera_student.images.fill))
    if config.augment.grid_mask is not None and not is_teacher:
        mean = [round(value) for value in config.camera_student.image_mean]
        steps.append(GridMask(config.augment.grid_mask, mean))
    if config.augment.bev is not None:
        steps.append(BevAugment(config.augment.bev))
    grid = config.teacher.grid if is_teacher else config.camera_student.grid
    return Compose(
        *steps,
        RangeFilter(grid, min_lidar_points=config.augment.min_lidar_points, all_points=bool(config.mmdet3d.config)),
    )

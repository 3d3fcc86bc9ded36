"""One training run from its configuration to its checkpoint, resumable at every saved step."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader

from bevdistill_ros.model.temporal_attention import remembering_weights
from training.data.augment import BevAugment, Compose, GridMask, PhotometricAugment, RangeFilter
from training.data.dataset import NuScenesDataset, class_balanced_indices, load_index
from training.data.object_bank import ObjectBank, PasteObjects, bank_folder
from training.data.sample import Batch, Sample, collate
from training.data.sampler import SeededDataset, StepBatchSampler
from training.run.callbacks import LAST, LOSSES, Checkpoints, Cost, ExponentialAverage, LossLog, StepBar
from training.run.config import TrainConfig
from training.run.module import StudentTraining, TeacherTraining, TrainingModule
from training.teacher.cache import CachedTeacher, cache_folder
from training.teacher.frozen import FrozenTeacher
from training.teacher.load import TrainedTeacher, dataset_for, trained_teacher
from training.weights.backbone import load_backbone
from training.weights.checkpoint import config_text, load_weights, read_checkpoint, read_config, read_weights

_LOG = logging.getLogger(__name__)


def fit(config: TrainConfig) -> Path:
    """Train as configured; the run's folder appears with its first finished step.

    Returns:
        The checkpoint of the last step.

    Raises:
        ValueError: The configuration, the data or a checkpoint does not fit.
        FloatingPointError: A loss or a prediction is no longer finite.
        OSError: Another process is training in the same folder.
        KeyboardInterrupt: The run was interrupted, or told to end; what it saved stays.
    """
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    pl.seed_everything(config.optim.seed, workers=True, verbose=False)
    output = Path(config.run.output)
    first_step = _first_step(config, output)
    module = build_module(config)
    if config.role == "student" and not first_step:
        _warn_of_random_backbone(config)
    data = TrainData(config, first_step)
    if first_step < config.optim.steps:
        trainer = _trainer(config, output)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=output / LAST if first_step else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C and SIGTERM
            raise KeyboardInterrupt from error
    return output / LAST


def run_train(config: TrainConfig) -> str:
    """Train; returns the closing text, which one process of several tells."""
    checkpoint = fit(config)
    return (
        "" if getattr(rank_zero_only, "rank", 0) else f"checkpoint: {checkpoint}\nlosses: {checkpoint.parent / LOSSES}"
    )


def build_module(config: TrainConfig) -> TrainingModule:
    """The Lightning module of a run, with its initial weights.

    Raises:
        ValueError: The teacher or the initial weights can't be read or do not fit.
    """
    module: TrainingModule
    if config.role == "teacher":
        module = TeacherTraining(config)
    elif config.distill.method == "none":
        module = StudentTraining(config, None)
    else:
        with torch.random.fork_rng():  # so that the student starts as it does without a teacher
            trained = trained_teacher(config.teacher_checkpoint, config.mmdet3d, grid=config.student.grid)
        if trained.num_sweeps != config.data.num_sweeps:
            raise ValueError(
                f"{config.teacher_checkpoint} was trained with {trained.num_sweeps} sweeps, but data.num_sweeps is "
                f"{config.data.num_sweeps}; set it to {trained.num_sweeps}"
            )
        module = StudentTraining(config, _remembering(trained, config))
    if config.run.initial_weights:
        weights = remembering_weights(read_weights(config.run.initial_weights), module.model)
        load_weights(module.model, weights, config.run.initial_weights)
    if isinstance(module, StudentTraining):
        if config.run.backbone_weights:
            load_backbone(module.model.backbone, config.run.backbone_weights, caffe=config.run.backbone_caffe)
        if config.run.recompute_activations:
            module.model.recompute_activations()
    if config.run.channels_last:
        module.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return module


def _remembering(trained: TrainedTeacher, config: TrainConfig) -> FrozenTeacher:
    """The teacher, with a memory on disk where the run has one."""
    if not config.run.teacher_cache:
        return trained.teacher
    data = config.data
    folder = cache_folder(
        Path(config.run.teacher_cache),
        Path(config.teacher_checkpoint),
        *(
            data.root.resolve(),
            data.version,
            data.num_sweeps,
            config.student.grid,
            config.mmdet3d,
            config.run.precision,
        ),
    )
    return CachedTeacher(trained.teacher, folder, trained.grid)


def train_dataset(config: TrainConfig) -> NuScenesDataset:
    """The training split with what the run needs of it, augmented."""
    is_teacher = config.role == "teacher"
    index = load_index(config.data)

    def dataset(augment: Compose | None) -> NuScenesDataset:
        return dataset_for(
            config.data,
            config.student,
            index,
            config.data.train_split,
            with_images=not is_teacher,
            with_points=is_teacher or config.distill.method != "none",
            augment=augment,
        )

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
        )
        return DataLoader(
            SeededDataset(self._dataset),
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self._config.run.num_workers,
        )


def _warn_of_random_backbone(config: TrainConfig) -> None:
    frozen = config.student.frozen_stages > 0 or config.student.backbone_norm == "frozen"
    if frozen and not (config.run.initial_weights or config.run.backbone_weights):
        _LOG.warning(
            "parts of the backbone are frozen at random weights; set run.backbone_weights to ImageNet weights, or "
            "student.frozen_stages to 0 and student.backbone_norm to batch"
        )


def _augment(config: TrainConfig, first: Sequence[Callable[[Sample], Sample]]) -> Compose:
    """What is done to each training sample after some first changes; boxes and points off the grid go last."""
    is_teacher = config.role == "teacher"
    steps = list(first)
    if config.augment.photometric is not None and not is_teacher:
        steps.append(PhotometricAugment(config.augment.photometric))
    if config.augment.grid_mask is not None and not is_teacher:
        steps.append(GridMask(config.augment.grid_mask))
    if config.augment.bev is not None:
        steps.append(BevAugment(config.augment.bev))
    grid = config.teacher.grid if is_teacher else config.student.grid
    return Compose(
        *steps,
        RangeFilter(grid, min_lidar_points=config.augment.min_lidar_points, all_points=bool(config.mmdet3d.config)),
    )


def _first_step(config: TrainConfig, output: Path) -> int:
    """Step to go on from; 0 for a new run."""
    last = output / LAST
    if not config.run.resume:
        if last.exists():
            raise ValueError(
                f"{output} already holds a run; set run.resume to true to go on with it, or choose another run.output"
            )
        return 0
    if not last.exists():
        _LOG.info("nothing to resume in %s: starting from step 0", output)
        return 0
    content = read_checkpoint(last)
    different = differences(read_config(content), json.loads(config_text(config)))
    if different:
        raise ValueError(
            f"{last} was trained with another {different[0]}; resume with the configuration in {output}/config.json"
        )
    return int(content["global_step"])


# What neither the data of a step nor its losses depend on; data may have moved.
_FREE = {
    *("data.root", "data.cache_dir", "data.val_split"),
    *(f"run.{name}" for name in ("output", "resume", "checkpoint_every", "log_every", "balance_every", "progress")),
    *(f"run.{name}" for name in ("teacher_cache", "num_workers", "accelerator", "threads")),
    *(f"run.{name}" for name in ("recompute_activations", "channels_last")),
}


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names, as `distill.fitnet.weight`, of the settings on which a run's losses depend and that are not the same.

    Args:
        saved: Configuration of a run, as JSON has it. A setting that is younger than it counts as at its default.
        wanted: The same of another one, or of its continuation. A setting that is gone by now is not looked at.
    """
    defaults = json.loads(config_text(TrainConfig()))
    return sorted(name for name in _unequal(_filled(saved, defaults), wanted) if name not in _FREE)


def _filled(content: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    given = {
        name: _filled(value, defaults[name]) if _are_dicts(value, defaults.get(name)) else value
        for name, value in content.items()
    }
    return {**defaults, **given}


def _unequal(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in now.keys() & before.keys():
        if _are_dicts(before[name], now[name]):
            yield from _unequal(before[name], now[name], f"{prefix}{name}.")
        elif before[name] != now[name]:
            yield f"{prefix}{name}"


def _are_dicts(*values: object) -> bool:
    return all(isinstance(value, dict) for value in values)


def _trainer(config: TrainConfig, output: Path) -> pl.Trainer:
    run, optim = config.run, config.optim
    callbacks: list[pl.Callback] = [LossLog(output, config, every=run.log_every), Cost()]
    if optim.ema_decay > 0:
        callbacks.append(ExponentialAverage(optim.ema_decay))
    callbacks.append(Checkpoints(output / LAST, config, every=run.checkpoint_every))
    if run.progress:
        callbacks.append(StepBar())
    try:
        return pl.Trainer(
            accelerator=run.accelerator,
            devices=run.devices,
            num_nodes=run.num_nodes,
            # Not every layer of a distiller takes part in every step.
            strategy="auto" if run.devices * run.num_nodes == 1 else "ddp_find_unused_parameters_true",
            precision=run.precision,
            max_steps=optim.steps,
            gradient_clip_val=optim.clip_norm,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=output,
        )
    except MisconfigurationException as error:
        raise ValueError(f"run.accelerator {run.accelerator} with {run.devices} devices: {error}") from error

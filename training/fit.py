"""One training run from its configuration to its checkpoint, resumable at every saved step."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from torch.utils.data import DataLoader

from training.checkpoint import CONFIG_KEY, config_text, load_weights, read_checkpoint, read_config, read_weights
from training.config import TrainConfig
from training.data.augment import BevAugment, Compose, PhotometricAugment, RangeFilter
from training.data.nuscenes import NuScenesIndex, load_index
from training.data.sample import Sample, collate
from training.data.sampling import SeededDataset, StepBatchSampler
from training.models import dataset_for, load_teacher
from training.trainer import StudentTraining, TeacherTraining, TrainingModule

_LOG = logging.getLogger(__name__)
LAST = "last.ckpt"
LOSSES = "losses.jsonl"


class LossLog(pl.Callback):
    """Appends a JSON line of unweighted losses every so many steps; a resumed run drops those that it writes again."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._path.exists():
            kept = [
                line for line in self._path.read_text().splitlines() if json.loads(line)["step"] <= trainer.global_step
            ]
            self._path.write_text("".join(f"{line}\n" for line in kept))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.is_global_zero and trainer.global_step % self._every == 0:
            values = {name: float(value) for name, value in trainer.callback_metrics.items()}
            rate = trainer.optimizers[0].param_groups[-1]["lr"]
            with self._path.open("a") as file:
                file.write(json.dumps({"step": trainer.global_step, "learning_rate": rate, **values}) + "\n")


class ConfigInCheckpoint(pl.Callback):
    """Writes the resolved configuration into each checkpoint."""

    def __init__(self, text: str) -> None:
        self._text = text

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[CONFIG_KEY] = self._text


class LossBar(TQDMProgressBar):
    """Progress in steps, with the total loss."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        total = trainer.callback_metrics.get("total")
        return {} if total is None else {"loss": f"{float(total):.3f}"}


def fit(config: TrainConfig) -> Path:
    """Train as configured.

    Returns:
        The checkpoint of the last step.

    Raises:
        ValueError: The configuration, the data or a checkpoint does not fit; nothing was written.
    """
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    pl.seed_everything(config.optim.seed, workers=True, verbose=False)
    output = Path(config.run.output)
    first_step = _first_step(config, output)
    module = build_module(config)
    index = load_index(config.data)
    loader = _train_loader(config, index, first_step)
    output.mkdir(parents=True, exist_ok=True)
    (output / "config.json").write_text(json.dumps(json.loads(config_text(config)), indent=2) + "\n")
    if not first_step:
        (output / LOSSES).unlink(missing_ok=True)
    if first_step < config.optim.steps:
        checkpoint = output / LAST if first_step else None
        _trainer(config, output).fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    return output / LAST


def build_module(config: TrainConfig) -> TrainingModule:
    """The Lightning module of a run, with its initial weights."""
    module: TrainingModule
    if config.role == "teacher":
        module = TeacherTraining(config)
    else:
        needs_teacher = config.distill.method != "none"
        if needs_teacher and not config.teacher_checkpoint:
            raise ValueError(f"distill.method {config.distill.method} needs a teacher: set teacher_checkpoint")
        module = StudentTraining(config, load_teacher(config.teacher_checkpoint) if needs_teacher else None)
    if config.run.initial_weights:
        load_weights(module.model, read_weights(config.run.initial_weights), config.run.initial_weights)
    return module


def _first_step(config: TrainConfig, output: Path) -> int:
    """Step to go on from; 0 for a new run."""
    last = output / LAST
    if not config.run.resume:
        if last.exists():
            raise ValueError(f"{output} already holds a run; set run.resume to go on, or choose another run.output")
        return 0
    if not last.exists():
        _LOG.info("nothing to resume in %s: starting from step 0", output)
        return 0
    content = read_checkpoint(last)
    saved, wanted = read_config(content), json.loads(config_text(config))
    for part in ("role", "teacher", "student", "criterion", "distill", "optim"):
        if saved[part] != wanted[part]:
            raise ValueError(
                f"{last} was trained with another '{part}' configuration; resume with the one in {output}/config.json"
            )
    return int(content["global_step"])


def _train_loader(config: TrainConfig, index: NuScenesIndex, first_step: int) -> DataLoader[Sample]:
    is_teacher = config.role == "teacher"
    dataset = dataset_for(
        config.data,
        config.student,
        index,
        config.data.train_split,
        with_images=not is_teacher,
        with_points=is_teacher or config.distill.method != "none",
        augment=build_augment(config),
    )
    sampler = StepBatchSampler(
        range(len(dataset)),
        batch_size=config.optim.batch_size,
        steps=config.optim.steps,
        seed=config.optim.seed,
        first_step=first_step,
        rank=int(os.environ.get("RANK", 0)),
        world_size=int(os.environ.get("WORLD_SIZE", config.run.devices * config.run.num_nodes)),
    )
    workers = config.run.num_workers
    return DataLoader(SeededDataset(dataset), batch_sampler=sampler, collate_fn=collate, num_workers=workers)


def build_augment(config: TrainConfig) -> Compose:
    """What is done to each training sample; boxes and points off the grid go last."""
    grid = config.teacher.grid if config.role == "teacher" else config.student.grid
    steps: list[Callable[[Sample], Sample]] = [RangeFilter(grid, min_lidar_points=config.augment.min_lidar_points)]
    if config.augment.bev is not None:
        steps.insert(0, BevAugment(config.augment.bev))
    if config.augment.photometric is not None and config.role == "student":
        steps.insert(0, PhotometricAugment(config.augment.photometric))
    return Compose(*steps)


def run_train(config: TrainConfig) -> str:
    """Train; returns the closing text."""
    return f"checkpoint: {fit(config)}"


def _trainer(config: TrainConfig, output: Path) -> pl.Trainer:
    run, optim = config.run, config.optim
    callbacks: list[pl.Callback] = [
        ConfigInCheckpoint(config_text(config)),
        LossLog(output / LOSSES, run.log_every),
    ]
    if optim.ema_decay > 0:
        callbacks.append(EMAWeightAveraging(decay=optim.ema_decay))
    callbacks.append(
        ModelCheckpoint(output, filename="last", every_n_train_steps=run.checkpoint_every, enable_version_counter=False)
    )
    callbacks.append(
        ModelCheckpoint(output, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    )
    if run.progress:
        callbacks.append(LossBar(refresh_rate=10))
    return pl.Trainer(
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.num_nodes,
        precision=run.precision,
        max_steps=optim.steps,
        gradient_clip_val=optim.clip_norm,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=run.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=output,
    )

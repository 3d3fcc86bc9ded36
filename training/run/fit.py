"""One training run from its configuration to its checkpoint, resumable at every saved step."""

import logging
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.model.public_config import PublicStudentConfig
from training.run.callbacks import LAST, LOSSES, AtomicCheckpoints, Checkpoints, ExponentialAverage, LossLog, StepBar
from training.run.config import TrainConfig
from training.run.cost import Cost
from training.run.data import TrainData
from training.run.module import StudentTraining, TeacherTraining, TrainingModule
from training.run.processes import check_processes
from training.run.resume import first_step
from training.run.stopping import StopTogether
from training.teacher.cache import CachedTeacher, cache_folder
from training.teacher.frozen import FrozenTeacher
from training.teacher.load import TrainedTeacher, trained_teacher
from training.weights.backbone import load_backbone
from training.weights.start import load_initial_weights

_LOG = logging.getLogger(__name__)


def fit(config: TrainConfig) -> Path:
    """Train as configured; the run's folder appears with its first finished step.

    Returns:
        The checkpoint of the last step.

    Raises:
        ValueError: The configuration, the data or a checkpoint does not fit.
        FloatingPointError: A loss or a prediction is no longer finite.
        OSError: Another process is training in the same folder.
        KeyboardInterrupt: The run was interrupted or asked to end (SIGTERM); it says what is saved.
    """
    config = with_bundled_student(config)
    check_processes(config.run)
    torch.set_num_threads(config.run.threads or torch.get_num_threads())
    pl.seed_everything(config.optim.seed, workers=True, verbose=False)
    output = Path(config.run.output)
    start = first_step(config, output)
    module = build_module(config)
    if config.role == "student" and not start:
        _warn_of_random_backbone(config)
    data = TrainData(config, start)
    if start < config.optim.steps:
        stop = StopTogether()
        trainer = _trainer(config, output, stop)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=output / LAST if start else None, weights_only=True)
        except SystemExit as error:  # Lightning's answer to Ctrl-C
            raise _interruption(output) from error
        if stop.agreed and trainer.global_step < config.optim.steps:
            raise _interruption(output)
    return output / LAST


def _interruption(output: Path) -> BaseException:
    """What ends an interrupted run: one of its processes says how to go on."""
    if getattr(rank_zero_only, "rank", 0):
        return SystemExit(130)
    if not (output / LAST).exists():
        return KeyboardInterrupt("nothing was saved yet")
    return KeyboardInterrupt(f"{output / LAST} is saved; --run.resume true resumes bit-exactly from it")


def run_train(config: TrainConfig) -> str:
    """Train; returns the closing text, for one process of several."""
    checkpoint = fit(config)
    return (
        "" if getattr(rank_zero_only, "rank", 0) else f"checkpoint: {checkpoint}\nlosses: {checkpoint.parent / LOSSES}"
    )


def with_bundled_student(config: TrainConfig) -> TrainConfig:
    """The configuration with the settings of the student in `student_bundle`, so that its checkpoints hold them.

    Raises:
        ValueError: There is no such bundle.
    """
    if not config.student_bundle or config.role != "student":
        return config
    settings = load_bundle(config.student_bundle).manifest.student
    if isinstance(settings, PublicStudentConfig):
        return replace(config, public=settings)
    return replace(config, student=settings)


def build_module(config: TrainConfig) -> TrainingModule:
    """The Lightning module of a run, with its initial weights.

    Raises:
        ValueError: The teacher or the initial weights can't be read or do not fit.
    """
    module: TrainingModule
    if config.role == "teacher":
        module = TeacherTraining(config)
    elif not config.is_taught:
        module = StudentTraining(config, None)
    else:
        with torch.random.fork_rng():  # so that the student starts as it does without a teacher
            trained = trained_teacher(config.teacher_checkpoint, config.mmdet3d, grid=config.camera_student.grid)
        if trained.num_sweeps != config.data.num_sweeps:
            raise ValueError(
                f"{config.teacher_checkpoint} was trained with {trained.num_sweeps} sweeps, but data.num_sweeps is "
                f"{config.data.num_sweeps}; set it to {trained.num_sweeps}"
            )
        taught = config.distill.method != "none"
        module = StudentTraining(
            config,
            _remembering(trained, config) if taught else None,
            inherits_from=trained.teacher if config.inherits_decoder else None,
        )
    start = config.student_bundle or config.run.initial_weights
    if start:
        load_initial_weights(module.model, start)
    if isinstance(module, StudentTraining):
        if config.run.backbone_weights:
            load_backbone(module.model.backbone, config.run.backbone_weights, caffe=config.run.backbone_caffe)
        if config.run.recompute_activations:
            module.model.recompute_activations()
    if config.run.channels_last and (config.run.accelerator == "cpu" or not torch.cuda.is_available()):
        # torch 2.13 without AVX-512: the backward pass of a 1x1 convolution of stride 2 writes beyond its memory.
        _LOG.warning("run.channels_last is left off, as torch's convolutions in that layout can fail on a CPU")
    elif config.run.channels_last:
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
            config.camera_student.grid,
            config.mmdet3d,
            config.run.precision,
            sorted(config.distill.taps()),
        ),
    )
    return CachedTeacher(trained.teacher, folder, trained.grid, config.distill.taps())


def _warn_of_random_backbone(config: TrainConfig) -> None:
    frozen = config.student.frozen_stages > 0 or config.student.backbone_norm == "frozen"
    if frozen and not (config.run.initial_weights or config.run.backbone_weights or config.student_bundle):
        _LOG.warning(
            "parts of the backbone are frozen at random weights; set run.backbone_weights to ImageNet weights, or "
            "student.frozen_stages to 0 and student.backbone_norm to batch"
        )


def _trainer(config: TrainConfig, output: Path, stop: StopTogether) -> pl.Trainer:
    run, optim = config.run, config.optim
    callbacks: list[pl.Callback] = [LossLog(output, config, every=run.log_every), Cost(), stop]
    if optim.ema_decay > 0:
        callbacks.append(ExponentialAverage(optim.ema_decay))
    callbacks.append(Checkpoints(output / LAST, config, every=run.checkpoint_every, stop=stop))
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
            benchmark=True,  # of cuDNN's algorithms, once, as sizes never change
            max_steps=optim.steps,
            accumulate_grad_batches=optim.accumulate,
            gradient_clip_val=optim.clip_norm,
            callbacks=callbacks,
            plugins=[AtomicCheckpoints()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=output,
        )
    except MisconfigurationException as error:
        raise ValueError(f"run.accelerator {run.accelerator} with {run.devices} devices: {error}") from error

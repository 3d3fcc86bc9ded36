"""Training of a teacher, of a student, and of a student that learns from a teacher.

The step is: model -> criterion and distiller -> {name: unweighted scalar} -> one weighted sum. A run is a number of
optimiser steps; what a step sees depends on its number alone, so a stopped run resumes bit-exactly.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from bevdistill_ros.model.build import build_student
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.records import BevMemory, StudentOutput
from bevdistill_ros.model.student import CameraStudent
from training.criterion.detection_loss import DetectionLoss
from training.data.sample import Batch
from training.distill.base import Distiller
from training.distill.build import DistillConfig, build_distiller, shares_of, weights_of
from training.run.balance import GradientBalance, UncertaintyBalance, dominant_terms, gradient_norms
from training.run.config import TrainConfig
from training.run.optimizer import build_schedule, parameter_groups
from training.teacher.frozen import FrozenTeacher
from training.teacher.object_dgcnn import ObjectDgcnn
from training.weights.inherit import inherit_decoder

_LOG = logging.getLogger(__name__)


class TrainingModule(pl.LightningModule):
    """What teacher and student training share: weighting, optimiser, schedule, and the checks of a step."""

    model: nn.Module  # what is trained and exported
    slow_prefix = "no parameter"  # of those that learn at backbone_factor

    def __init__(
        self, config: TrainConfig, model: nn.Module, detection: DetectionLoss, weights: Mapping[str, float | None]
    ) -> None:
        super().__init__()
        self.optim = config.optim
        self._fixed = {**detection.weights, **{name: value for name, value in weights.items() if value is not None}}
        balanced = [name for name, value in weights.items() if value is None]
        self.gradient_balance = _balance_of(balanced, config.distill)
        self.model, self.detection = model, detection
        self._balance_every, self._precision = config.run.balance_every, config.run.precision
        # Of some steps, each term by name: `weighted/` and, of its gradient's norm at the BEV map, `gradient/`.
        self.balance: dict[str, float] = {}
        self._warned: set[str] = set()
        # Unweighted terms and total, means over the batches of the step so far.
        self.losses_of_step: dict[str, Tensor] = {}

    def terms(self, batch: Batch, step: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        """Unweighted named scalars of a batch, and the BEV map (B, C, rows, cols) through which they all learn.

        Args:
            batch: Of the step.
            step: Counts from 1; distillation may take part in some steps only.
        """
        raise NotImplementedError

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted named scalars of a batch."""
        return self.terms(batch)[0]

    def weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each term times its weight; their sum is what is trained."""
        weights: dict[str, Any] = {**self._fixed, **self.gradient_balance.factors()}
        return {name: weights[name] * value for name, value in losses.items()}

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The one weighted sum."""
        return torch.stack(list(self.weighted(losses).values())).sum() + self.gradient_balance.penalty()

    def objective(self, batch: Batch, step: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        """Unweighted named scalars of a batch and their weighted sum, balanced as in this step, without a trainer."""
        losses, bev = self.terms(batch, step)
        if self.gradient_balance.is_due(step):
            self.measure(losses, bev)
        return losses, self.total(losses)

    def measure(self, losses: Mapping[str, Tensor], bev: Tensor) -> None:
        """Let the balanced weights follow the gradients of these losses at the BEV map, see `GradientBalance`."""
        detection = torch.stack([self._fixed[name] * losses[name] for name in self.detection.weights if name in losses])
        terms = {name: losses[name] for name in self.gradient_balance.terms}
        norms = gradient_norms({"detection": detection.sum(), **terms}, bev)
        self.gradient_balance.update(norms.pop("detection"), norms)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        step, part = self.global_step + 1, batch_idx % self.optim.accumulate
        is_first, is_last = part == 0, part == self.optim.accumulate - 1
        try:
            losses, bev = self.terms(batch, step)
        except FloatingPointError as error:
            before = {name: value for name, value in self.trainer.callback_metrics.items() if name != "total"}
            raise FloatingPointError(f"step {step}: {error}; losses of the step before: {_listed(before)}") from error
        if is_first and self.gradient_balance.is_due(step):
            self.measure(losses, bev)
        total = self.total(losses)
        if not torch.isfinite(total):
            raise FloatingPointError(
                f"the loss of step {step} is not finite: {_listed(losses)}; lower the learning rate"
            )
        self._add_to_step({**losses, "total": total}, is_first=is_first)
        if is_last:
            self.log_dict(self.losses_of_step, batch_size=len(batch))
        is_due = is_last and self._balance_every and (step == 1 or step % self._balance_every == 0)
        self.balance = self._weigh(step, self.weighted(losses), bev) if is_due else {}
        return total

    def _add_to_step(self, losses: Mapping[str, Tensor], *, is_first: bool) -> None:
        """Take losses of a batch into the means over the batches of its step."""
        shares = {name: value.detach() / self.optim.accumulate for name, value in losses.items()}
        self.losses_of_step = (
            shares if is_first else {name: self.losses_of_step[name] + value for name, value in shares.items()}
        )

    def _weigh(self, step: int, weighted: Mapping[str, Tensor], bev: Tensor) -> dict[str, float]:
        """Each weighted term and its gradient's norm; warns once of each that leaves detection little influence."""
        for name, ratio in dominant_terms(weighted, self.detection.weights).items():
            if name not in self._warned:
                _LOG.warning("step %d: %s weighs %.0f times the detection loss; lower its weight", step, name, ratio)
                self._warned.add(name)
        norms = gradient_norms(weighted, bev)
        return {
            **{f"weighted/{name}": float(value.detach()) for name, value in weighted.items()},
            **{f"gradient/{name}": norm for name, norm in norms.items()},
        }

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Dropout depends on the step and the batch in it alone, so that a resumed run repeats it.
        part = batch_idx % self.optim.accumulate
        torch.manual_seed(self.optim.seed * 1_000_003 + self.global_step * 1009 + part * 500_009 + self.global_rank)

    @property
    def _fuses(self) -> bool:
        """Whether the optimiser is one kernel: on a GPU, but where the loss is scaled, which forbids clipping then."""
        return next(self.parameters()).device.type == "cuda" and self._precision != "16-mixed"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            parameter_groups(self, self.optim, self.slow_prefix),
            lr=self.optim.learning_rate,
            weight_decay=self.optim.weight_decay,
            fused=self._fuses or None,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": build_schedule(optimizer, self.optim), "interval": "step"},
        }


def _balance_of(terms: Sequence[str], config: DistillConfig) -> GradientBalance | UncertaintyBalance:
    if config.balance == "uncertainty":
        return UncertaintyBalance(terms)
    shares = shares_of(config)
    return GradientBalance({name: shares[name] for name in terms}, every=config.balance_every)


class TeacherTraining(TrainingModule):
    """Trains the LiDAR teacher."""

    model: ObjectDgcnn

    def __init__(self, config: TrainConfig) -> None:
        model = ObjectDgcnn(config.teacher)
        detection = DetectionLoss(
            config.criterion,
            channels=config.teacher.embed_dim,
            grid=config.teacher.grid,
            query_selection=config.teacher.query_selection,
        )
        super().__init__(config, model, detection, {})

    def terms(self, batch: Batch, step: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        output = self.model(batch.points)
        finest = output.map_of("finest")
        return self.detection(output.predictions, finest, batch), finest


class StudentTraining(TrainingModule):
    """Trains the camera student, alone or distilled from a frozen teacher.

    Args:
        config: Of the run.
        teacher: Whom the distiller compares the student with; None trains it alone.
        inherits_from: Whose decoder the student's starts as, where it fits.

    Raises:
        ValueError: The decoder does not fit, and `distill.inherit` asks for it.
    """

    model: CameraStudent
    slow_prefix = "model.backbone."

    def __init__(
        self, config: TrainConfig, teacher: FrozenTeacher | None, inherits_from: FrozenTeacher | None = None
    ) -> None:
        student = config.camera_student
        model = build_student(student)
        shares_decoder = inherits_from is not None and _inherit(model.decoder, inherits_from, config)
        detection = DetectionLoss(
            config.criterion,
            channels=student.embed_dim,
            grid=student.grid,
            query_selection=student.query_selection,
            by_cameras=True,
        )
        super().__init__(config, model, detection, weights_of(config.distill))
        self.distiller: Distiller | None = None
        if teacher is not None:
            self.distiller = build_distiller(
                config.distill,
                grid=student.grid,
                student_channels=student.embed_dim,
                teacher_channels=teacher.channels,
                teacher_decoder=decoder_of(teacher),
                shares_decoder=shares_decoder,
            )
        self._teacher = (teacher,)  # in a tuple, so that it is neither saved nor trained with the student
        self._distill_every = config.distill.every

    def terms(self, batch: Batch, step: int = 1) -> tuple[dict[str, Tensor], Tensor]:
        output = self.student_output(batch)
        losses = self.detection(output.predictions, output.bev, batch)
        teacher = self._teacher[0]
        is_due = step % self._distill_every == 0 or self.gradient_balance.is_due(step)
        if self.distiller is not None and teacher is not None and is_due:
            losses |= self.distiller(output, teacher.of(batch), batch)
        return losses, output.bev

    def student_output(self, batch: Batch) -> StudentOutput:
        """Run the student over the clip; gradients flow through the last frame only."""
        previous: BevMemory | None = None
        self.model.eval()  # as at inference: no dropout in the memory, and history does not move batch statistics
        with torch.no_grad():
            for frame, present in zip(batch.history, batch.history_present, strict=True):
                bev = self.model.encode(frame, previous)
                previous = BevMemory(bev=bev, global_from_ego=frame.global_from_ego, present=present)
        # Under autocast torch 2.6 reuses weights that the history cast without gradient, and they never learn.
        torch.clear_autocast_cache()
        self.model.train(self.training)
        output: StudentOutput = self.model(batch.cameras, previous)
        return replace(output, bev=self.model.map_in_ego(output.bev))  # where losses compare it

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Take the teacher along to another device."""
        if self._teacher[0] is not None:
            self._teacher[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def decoder_of(teacher: FrozenTeacher) -> SetDecoder | None:
    """The decoder of a teacher; None where it has none of ours."""
    return teacher.module.decoder if isinstance(teacher.module, ObjectDgcnn) else None


def _inherit(decoder: SetDecoder, teacher: FrozenTeacher, config: TrainConfig) -> bool:
    """Start a student's decoder as the teacher's; where nobody asked for it and it does not fit, say so."""
    try:
        theirs = decoder_of(teacher)
        if theirs is None:
            raise ValueError(
                f"distill.inherit needs a teacher with a decoder of ours, but {config.teacher_checkpoint} is a "
                "detector of mmdet3d; set distill.inherit to none"
            )
        inherit_decoder(decoder, theirs)
    except ValueError as error:
        if config.distill.inherit == "decoder":
            raise
        _LOG.warning("the student's decoder starts at random weights: %s", error)
        return False
    return True


def _listed(losses: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items()) or "none"

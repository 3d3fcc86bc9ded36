"""The configuration of a training run; everything else is described by the part that it configures."""

from dataclasses import dataclass, field
from typing import Literal

from bevdistill_ros.core.plain import check_at_least
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.student import StudentSettings
from training.criterion.detection_loss import CriterionConfig
from training.data.augment import BevAugmentConfig, GridMaskConfig, PhotometricConfig
from training.data.index.load import DataConfig
from training.data.object_bank import PasteConfig
from training.distill.build import DistillConfig
from training.teacher.mmdet3d_config import Mmdet3dConfig
from training.teacher.object_dgcnn import TeacherConfig


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is changed in training samples; None is off."""

    bev: BevAugmentConfig | None = None
    photometric: PhotometricConfig | None = None
    grid_mask: GridMaskConfig | None = None  # squares of the images that are hidden
    drop_frame: bool = False  # leave one frame before the current out of each clip at random, so that time gaps vary
    paste: PasteConfig | None = None  # objects of other frames into LiDAR clouds; for a teacher alone
    min_lidar_points: int = 0  # boxes that hold fewer are no ground truth in training


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Optimiser, schedule and length of a run."""

    steps: int = 84_000  # optimiser steps
    batch_size: int = 1  # samples per batch on each device
    accumulate: int = 1  # batches per step and device, whose gradients are averaged; each counts its own boxes
    learning_rate: float = 2e-4
    backbone_factor: float = 0.1  # learning rate of the image backbone relative to the rest
    weight_decay: float = 0.01
    clip_norm: float = 35.0  # gradient norm
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    warmup_steps: int = 500
    ema_decay: float = 0.0  # of the exponential moving average of the weights; 0 is off
    class_balanced: bool = False  # draw samples so that each class has the same share (CBGS)
    seed: int = 0  # of weights, shuffles, augmentation and dropout

    def __post_init__(self) -> None:
        check_at_least(self, "optim", 1, "steps", "batch_size", "accumulate")
        check_at_least(self, "optim", 0, "backbone_factor", "weight_decay", "warmup_steps", "seed")
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"optim.{name} must be above 0, but is {getattr(self, name)}")
        if self.schedule == "one_cycle" and self.steps < 6:
            raise ValueError(f"optim.schedule one_cycle needs optim.steps of at least 6, but it is {self.steps}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay must be in [0, 1), but is {self.ema_decay}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run computes and what it leaves on disk."""

    output: str = "runs/default"
    initial_weights: str = ""  # safetensors or checkpoint to start from; empty starts from scratch
    backbone_weights: str = ""  # of the image backbone alone: a file (torchvision, FCOS3D), or imagenet for a package's
    backbone_caffe: bool = False  # whether that file's network took BGR of 0...255, as FCOS3D's and other caffe ResNets
    resume: bool = False  # go on from <output>/last.ckpt
    checkpoint_every: int = 500  # steps
    log_every: int = 20  # steps
    balance_every: int = 500  # steps between two looks at how hard each loss pulls at the BEV map; 0 is never
    teacher_cache: str = ""  # folder that keeps what a frozen teacher says of each frame; needs augment.bev off
    num_workers: int = 2  # processes that load data
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto is the GPU where there is one
    devices: int = 1  # of a machine
    num_nodes: int = 1  # machines
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    recompute_activations: bool = False  # compute the student's activations twice instead of keeping them: less memory
    channels_last: bool = False  # keep maps with their channels innermost, faster on some GPUs; left off on a CPU
    threads: int = 0  # of torch on the CPU; 0 keeps torch's own choice
    progress: bool = True  # show a bar

    def __post_init__(self) -> None:
        check_at_least(self, "run", 1, "checkpoint_every", "log_every", "devices", "num_nodes")
        check_at_least(self, "run", 0, "num_workers", "threads", "balance_every")
        if not self.output:
            raise ValueError("run.output must name a folder, but is empty")
        if self.initial_weights and self.backbone_weights:
            raise ValueError("run.initial_weights holds a backbone already: leave run.backbone_weights empty")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All of a training run."""

    role: Literal["teacher", "student"] = "student"
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    teacher_checkpoint: str = ""  # of the frozen teacher; needed for every distillation method but none
    mmdet3d: Mmdet3dConfig = field(default_factory=Mmdet3dConfig)  # where that teacher is a detector of mmdet3d
    student: StudentConfig = field(default_factory=StudentConfig)
    student_bundle: str = ""  # bundle whose student is trained on, in place of `student`: of import-weights, or of ours
    public: PublicStudentConfig | None = None  # settings of a public student; student_bundle sets them
    criterion: CriterionConfig = field(default_factory=CriterionConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        if self.role == "teacher" and self.distill.method != "none":
            raise ValueError("a teacher is not distilled: set distill.method to none, or role to student")
        if self.role == "teacher" and self.run.backbone_weights:
            raise ValueError("a teacher has no image backbone: leave run.backbone_weights empty")
        if self.role == "student" and self.augment.paste is not None:
            raise ValueError("no camera sees pasted objects: set augment.paste to null, or role to teacher")
        if self.role == "student" and self.distill.method != "none" and not self.teacher_checkpoint:
            raise ValueError(f"distill.method {self.distill.method} needs a teacher: set teacher_checkpoint")
        if self.role == "student" and self.distill.inherit == "decoder" and not self.teacher_checkpoint:
            raise ValueError("distill.inherit decoder needs a teacher: set teacher_checkpoint")
        if self.distill.inherit == "decoder" and self.run.initial_weights:
            raise ValueError(
                "run.initial_weights holds a decoder already: leave it empty, or set distill.inherit to none"
            )
        if self.run.teacher_cache and self.augment.bev is not None:
            raise ValueError(
                "run.teacher_cache keeps what the teacher says of frames as they are, but augment.bev turns them: set "
                "augment.bev to null, or run.teacher_cache to nothing"
            )
        if self.role == "teacher" and self.mmdet3d.config:
            raise ValueError("mmdet3d trains its own detectors: empty mmdet3d.config, or set role to student")
        if self.student_bundle and (self.role == "teacher" or self.run.initial_weights or self.run.backbone_weights):
            raise ValueError(
                "student_bundle brings a student with its weights: leave run.initial_weights and run.backbone_weights "
                "empty, and role at student"
            )
        if self.distill.inherit == "decoder" and self.student_bundle:
            raise ValueError("student_bundle holds a decoder already: leave it empty, or set distill.inherit to none")
        if self.public is not None and not self.student_bundle:
            raise ValueError("public follows from student_bundle: set that, to a bundle of import-weights")
        model = self.teacher if self.role == "teacher" else self.camera_student
        if model.query_selection == "heatmap" and self.criterion.heatmap == 0:
            raise ValueError(
                f"{self.role}.query_selection heatmap needs a heatmap that is trained: set criterion.heatmap above 0"
            )
        if self.role == "student" and self.camera_student.temporal and self.data.clip_length < 2:
            raise ValueError(
                f"student.temporal needs frames to remember: set data.clip_length to 2 or more, it is "
                f"{self.data.clip_length}"
            )

    @property
    def is_taught(self) -> bool:
        """Whether the run needs a teacher."""
        return self.distill.method != "none" or self.inherits_decoder

    @property
    def inherits_decoder(self) -> bool:
        """Whether the student's decoder starts as the teacher's."""
        from_scratch = not (self.run.initial_weights or self.student_bundle)
        return self.role == "student" and self.distill.inherits_decoder(from_scratch=from_scratch)

    @property
    def camera_student(self) -> StudentSettings:
        """Settings of the student that is trained, ours or a public one."""
        return self.public or self.student

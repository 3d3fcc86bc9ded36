"""The engine: a bundle that turns camera frames into detections, frame after frame."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.temporal_memory import Memory, MemoryLimits
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import CameraInput, StudentOutput
from bevdistill_ros.model.student import StudentSettings

Precision = Literal["fp32", "fp16", "bf16"]
_AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class Engine:
    """Runs a student; one engine a vehicle, as a temporal student remembers.

    Args:
        bundle: The student and its manifest. The engine moves the student to its device.
        device: `auto` (the GPU if there is one), `cpu`, `cuda` or `cuda:<index>`.
        precision: `fp32`, `bf16`, or on a GPU `fp16`.
        score_threshold: Least score of a detection; may be changed at any time.
        max_detections: Most detections of a frame.
        temporal: When the past is used and when it is forgotten; of no account for a student without memory.

    Raises:
        ValueError: The device is unknown or not there, or a setting is out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "auto",
        precision: Precision = "fp32",
        score_threshold: float = 0.0,
        max_detections: int = 300,
        temporal: MemoryLimits | None = None,
    ) -> None:
        self.manifest = bundle.manifest
        self.device = device_from(device)
        self._autocast = _autocast_dtype(precision, self.device)
        if not 0.0 <= score_threshold <= 1.0:
            raise ValueError(f"score_threshold must be in [0, 1], but is {score_threshold}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, but is {max_detections}")
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.memory = Memory(temporal or MemoryLimits())
        self.stage_ms: dict[str, float] = {}  # of the last frame: preprocess, inference, postprocess
        self._student = bundle.student.eval().to(self.device)

    @property
    def config(self) -> StudentSettings:
        """Settings of the student, such as its cameras and its input size."""
        return self.manifest.student

    @torch.inference_mode()
    def infer(self, frame: CameraFrame) -> Detections:
        """Detect in one frame.

        Args:
            frame: Images of the student's input size; of the cameras in any order, more than the student's are left
                out.

        Returns:
            Detections in the ego frame at the frame's stamp, by falling score, on the CPU.

        Raises:
            ValueError: A camera is not there, the images have another size, or the ego pose is not finite.
            FloatingPointError: The network's answer is not finite; the past is forgotten, so that it can't spread.
        """
        with self._timed("preprocess"):
            rig, cameras = self._input_from(frame)
        with self._timed("inference"):
            output = self._run(frame, rig, cameras)
            self._check_finite(output)
        with self._timed("postprocess"):
            found = detections_from(
                output.predictions, [frame.stamp_ns], max_detections=self.max_detections, grid=self.config.region
            )[0]
            detections = Detections(
                stamp_ns=found.stamp_ns, boxes=found.boxes.cpu(), scores=found.scores.cpu(), labels=found.labels.cpu()
            ).above(self.score_threshold)
        return detections

    def warm_up(self) -> None:
        """Run once on black images, so that the first real frame takes no longer; memory stays as it is."""
        config, rig = self.config, self.manifest.rig
        cameras = CameraInput(
            images=torch.zeros(1, len(config.cameras), 3, config.image_height, config.image_width, dtype=torch.uint8),
            image_from_ego=rig.image_from_ego().float().unsqueeze(0),
            valid=torch.ones(1, len(config.cameras), dtype=torch.bool),
            global_from_ego=torch.eye(4, dtype=torch.float64).unsqueeze(0),
        )
        with torch.inference_mode(), self._precision():
            self._student(cameras.to(self.device))
        self._synchronise()

    def reset(self) -> None:
        """Forget the past."""
        self.memory.reset("request")

    def _input_from(self, frame: CameraFrame) -> tuple[CameraRig, CameraInput]:
        config = self.config
        rig = frame.rig.select(config.cameras)
        if rig.image_size != (config.image_height, config.image_width):
            raise ValueError(
                f"the model takes images of {config.image_width}x{config.image_height}, "
                f"but got {rig.image_size[1]}x{rig.image_size[0]}; see model.preprocess"
            )
        images, valid = frame.images, frame.valid
        if rig.names != frame.rig.names:  # in the model's order the images need no copy
            order = [frame.rig.names.index(name) for name in rig.names]
            images, valid = images[order], valid[order]
        cameras = CameraInput(
            images=images.unsqueeze(0),
            image_from_ego=rig.image_from_ego().float().unsqueeze(0),
            valid=valid.unsqueeze(0),
            global_from_ego=frame.global_from_ego.double().unsqueeze(0),
            motion=None if frame.motion is None else frame.motion.float().unsqueeze(0),
        )
        return rig, cameras.to(self.device)

    def _run(self, frame: CameraFrame, rig: CameraRig, cameras: CameraInput) -> StudentOutput:
        with self._precision():
            if not self.config.temporal:
                output: StudentOutput = self._student(cameras)
                return output
            previous = self.memory.previous_for(frame.stamp_ns, frame.global_from_ego, rig)
            output = self._student(cameras, previous)
        self.memory.update(frame.stamp_ns, frame.global_from_ego, rig, output.bev)
        return output

    def _check_finite(self, output: StudentOutput) -> None:
        predictions = output.predictions
        if not (predictions.logits[-1].isfinite().all() & predictions.codes[-1].isfinite().all()):
            self.memory.reset("not finite")
            raise FloatingPointError("the network's answer is not finite; with precision fp16 try bf16, else fp32")

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._synchronise()
        self.stage_ms[stage] = (time.perf_counter() - start) * 1e3

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def device_from(name: str) -> torch.device:
    """The device of a name: `auto`, `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        ValueError: The name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, but is '{name}'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device '{name}' is not there: torch sees {torch.cuda.device_count()} CUDA devices; try auto or cpu"
        )
    return device


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision not in _AUTOCAST:
        raise ValueError(f"precision must be one of {', '.join(_AUTOCAST)}, but is '{precision}'")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 needs a CUDA device; on a CPU use fp32 or bf16")
    return _AUTOCAST[precision]

"""The engine: a bundle that turns camera frames into detections, frame after frame."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines.choice import open_network
from bevdistill_ros.inference.engines.reference import capacity_of
from bevdistill_ros.inference.temporal_memory import Memory, MemoryLimits
from bevdistill_ros.model.geometry import Capacity
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import Answer, CameraInput
from bevdistill_ros.model.student import StudentSettings


class Engine:
    """Runs a student; one engine a vehicle, as a temporal student remembers.

    Args:
        bundle: The student and its manifest. Engine torch moves the student to its device.
        choice: Which engine runs the network, and how.
        score_threshold: Least score of a detection; may be changed at any time.
        max_detections: Maximum number of detections per frame.
        temporal: When the past is used and when it is forgotten; ignored by a student without memory.

    Raises:
        EngineError: The engine is not installed, does not fit the bundle or failed its proof.
        ValueError: The device is unknown or not there, or a setting is out of range.
    """

    def __init__(
        self,
        bundle: Bundle,
        choice: EngineChoice = EngineChoice(),  # noqa: B008 - frozen
        *,
        score_threshold: float = 0.0,
        max_detections: int = 300,
        temporal: MemoryLimits | None = None,
    ) -> None:
        self.manifest = bundle.manifest
        if not 0.0 <= score_threshold <= 1.0:
            raise ValueError(f"score_threshold must be in [0, 1], but is {score_threshold}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, but is {max_detections}")
        chosen = open_network(bundle, choice)
        self.network, self.warnings = chosen.network, chosen.warnings
        self.score_threshold = score_threshold
        self.max_detections = max_detections
        self.memory = Memory(temporal or MemoryLimits())
        self.stage_ms: dict[str, float] = {}  # of the last frame: preprocess, inference, postprocess
        self._geometry, self._least = bundle.student.geometry, Capacity()
        if chosen.network.is_static:
            self._least = capacity_of(self.manifest.student, self.manifest.rig)

    @property
    def config(self) -> StudentSettings:
        """Settings of the student, such as its cameras and its input size."""
        return self.manifest.student

    @property
    def description(self) -> str:
        """Engine, device and precision, for logs."""
        return f"{self.network.name} on {self.network.place}, {self.network.precision}"

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
            answer = self._run(frame, rig, cameras)
            self.network.synchronise()  # the one wait for its end; other stages compute on the CPU
        with self._timed("postprocess"):
            # One copy to the CPU, where the many small steps cost less and nothing waits for a GPU again.
            answer = self._on_cpu(answer)
            found = detections_from(
                answer, [frame.stamp_ns], max_detections=self.max_detections, grid=self.config.region
            )[0]
            return found.above(self.score_threshold)

    def warm_up(self) -> None:
        """Run once on black images, so that the first real frame takes no longer; memory stays as it is."""
        config, rig = self.config, self.manifest.rig
        cameras = CameraInput(
            images=torch.zeros(1, len(config.cameras), 3, config.image_height, config.image_width, dtype=torch.uint8),
            image_from_ego=rig.image_from_ego().float().unsqueeze(0),
            valid=torch.ones(1, len(config.cameras), dtype=torch.bool),
            global_from_ego=torch.eye(4, dtype=torch.float64).unsqueeze(0),
        )
        with torch.inference_mode():
            self.network(cameras.images, self._geometry.of(cameras, least=self._least), None)
        self.network.synchronise()

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
        return rig, cameras

    def _run(self, frame: CameraFrame, rig: CameraRig, cameras: CameraInput) -> Answer:
        if not self.config.temporal:
            return self.network(cameras.images, self._geometry.of(cameras, least=self._least), None)
        previous = self.memory.previous_for(frame.stamp_ns, frame.global_from_ego, rig)
        geometry = self._geometry.of(cameras, previous, self._least)
        answer = self.network(cameras.images, geometry, previous.bev if previous else None)
        self.memory.update(frame.stamp_ns, frame.global_from_ego, rig, answer.bev)
        return answer

    def _on_cpu(self, answer: Answer) -> Answer:
        predictions = torch.cat([answer.logits, answer.codes], dim=-1).float().cpu()
        if not predictions.isfinite().all():
            self.memory.reset("not finite")
            raise FloatingPointError("the network's answer is not finite; with precision fp16 try bf16, else fp32")
        classes = answer.logits.shape[-1]
        return Answer(logits=predictions[..., :classes], codes=predictions[..., classes:], bev=answer.bev)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.stage_ms[stage] = (time.perf_counter() - start) * 1e3

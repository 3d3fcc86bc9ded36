"""From a set of image messages to detections: what the worker thread does."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.coverage import CameraCoverage, coverage_of
from bevdistill_ros.inference.frame import ImageTarget, frame_from_images, motion_from_twist
from bevdistill_ros.inference.temporal_memory import Memory
from bevdistill_ros.interface import drops
from bevdistill_ros.node.images import FULL_WIDTH
from bevdistill_ros.node.records import ImageSet, Motion, Outcome, Prepared
from bevdistill_ros.node.rig.calibration import SIZE_OF_IMAGE
from bevdistill_ros.node.rig.ego_motion import EgoMotion, compensate
from bevdistill_ros.node.rig.live_rig import CalibratedCamera, LiveRig
from bevdistill_ros.node.rig.rectifier import Rectifier
from bevdistill_ros.node.rig.waiting import REAL_TIME, Waiting
from bevdistill_ros.node.unpack import image_of, image_size_of, loses_colours


class Engine(Protocol):
    """What runs the network."""

    stage_ms: dict[str, float]  # of the last `infer`: preprocess, inference, postprocess
    memory: Memory

    def infer(self, frame: CameraFrame) -> Detections:
        """Detect, and remember the frame for the next."""

    def reset(self) -> None:
        """Forget the temporal memory."""


class UnusableSet(ValueError):
    """A set that cannot be used; the message is the reason."""


class Pipeline:
    """Decodes, calibrates and detects: `prepare` and `detect`, each of them for one set after the other.

    Args:
        engine: What runs the network.
        cameras: Camera names of the node, in the order of the model's cameras.
        training_rig: Rig of training in that order; the network's camera names come from it.
        target: What the network takes of an image.
        rig: The vehicle's cameras.
        motion: How the vehicle moves.
        missing_camera: What to do with a set that has an unusable image.
        max_wait_s: Longest wait for poses and calibrations of a set [s].
        max_image_pixels: Pixels that an image may have.
        decode_threads: Maximum number of threads that decode images; never more than there are cores.
        on_fault: Called with a camera and what is wrong with its image.
        time: In which poses and calibrations are waited for.
        num_buffers: Sets whose images must stay good; more than one where sets are prepared ahead of the detection.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        cameras: Sequence[str],
        training_rig: CameraRig,
        target: ImageTarget,
        rig: LiveRig,
        motion: EgoMotion,
        missing_camera: Literal["skip", "blank"],
        max_wait_s: float,
        max_image_pixels: int,
        decode_threads: int,
        on_fault: Callable[[str, str], None],
        time: Waiting = REAL_TIME,
        num_buffers: int = 1,
    ) -> None:
        self._engine = engine
        self._cameras = tuple(cameras)
        self._training_rig = training_rig
        self._target = target
        self._rig = rig
        self._motion = motion
        self._missing_camera = missing_camera
        self._max_wait_s = max_wait_s
        self._on_fault = on_fault
        self._rectifiers = [Rectifier() for _ in self._cameras]
        self._max_image_pixels = max_image_pixels
        num_threads = min(decode_threads, os.cpu_count() or 1)  # more would only take turns
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="decode")
        cv2.setNumThreads(1)  # one image per thread; threads inside of them would only wait for each other
        shape = (num_buffers, len(self._cameras), 3, *target.size)
        self._buffers = cycle(torch.empty(shape, dtype=torch.uint8).unbind())
        self._time = time
        self._reset_wanted = threading.Event()

    def request_reset(self) -> None:
        """Forget the temporal memory before the next set; safe to call from any thread."""
        self._reset_wanted.set()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)

    def run(self, images: ImageSet) -> Outcome:
        """Detect in a set; see `prepare`."""
        return self.detect(self.prepare(images))

    def prepare(self, images: ImageSet) -> Prepared:
        """Make of a set what the network takes.

        Raises:
            UnusableSet: An image or calibration is not usable, and the policy does not allow a blank camera.
        """
        stages = {"transport_age": images.transport_age_ms}
        rig = self._await_sources(images)
        stages["wait"] = (self._time.now_s() - images.received) * 1e3
        with timed(stages, "decode"):
            decoded = list(self._pool.map(lambda index: self._decoded(index, images, rig[index]), range(len(rig))))
        pixels, rig = [image for image, _ in decoded], [camera for _, camera in decoded]
        self._check_missing(pixels)
        rig_changed = self._rig.update(rig)
        with timed(stages, "preprocess"):
            frame, motion_known = self._frame(images, pixels, self._rig.filled(rig))
        forget = self._reset_wanted.is_set() or rig_changed
        if forget:
            self._reset_wanted.clear()
        new_rig = self._rig.take_new()
        newest = max(stamp for stamp in images.stamps_ns if stamp is not None)
        return Prepared(
            frame=frame,
            stage_ms=stages,
            motion=Motion(is_known=motion_known, lag_ms=self._motion.lag_ns(newest) / 1e6),
            forget=forget,
            rig_changed=rig_changed,
            new_rig=self._fitted(new_rig) if new_rig else None,
            coverage=self._coverage(new_rig) if new_rig else (),
        )

    def detect(self, prepared: Prepared) -> Outcome:
        """Detect in a set that was prepared."""
        stages = dict(prepared.stage_ms)
        if prepared.forget:
            self._engine.reset()
        # Without poses the memory would be warped by an unknown motion; the next set may have poses again.
        self._engine.memory.is_paused = not prepared.motion.is_known
        detections = self._engine.infer(prepared.frame)
        stages["preprocess"] += self._engine.stage_ms["preprocess"]
        stages |= {name: self._engine.stage_ms[name] for name in ("inference", "postprocess")}
        return Outcome(
            frame=prepared.frame,
            detections=detections,
            stage_ms=stages,
            motion=replace(prepared.motion, memory_s=self._engine.memory.age_s),
            rig_changed=prepared.rig_changed,
            new_rig=prepared.new_rig,
            coverage=prepared.coverage,
        )

    def _await_sources(self, images: ImageSet) -> list[CalibratedCamera | None]:
        """Wait for poses, and for the calibration of each camera."""
        deadline = self._time.now_s() + self._max_wait_s
        headers = {
            name: (stamp, frame)
            for name, stamp, frame in zip(self._cameras, images.stamps_ns, images.frame_ids, strict=True)
            if stamp is not None
        }
        self._motion.wait_for(max(stamp for stamp, _ in headers.values()), self._max_wait_s)
        return self._rig.at(headers, max(deadline - self._time.now_s(), 0.0))

    def _decoded(
        self, index: int, images: ImageSet, camera: CalibratedCamera | None
    ) -> tuple[np.ndarray | None, CalibratedCamera | None]:
        """Pixels of a camera, None where it is missing or its image is not usable; and the camera for these pixels."""
        if camera is None:
            return None, None
        (calibration, mounting), message, name = camera, images.messages[index], self._cameras[index]
        # Without a calibrated size the image is decoded whole, and its size is that of the calibration.
        is_sized = calibration.size != SIZE_OF_IMAGE
        nominal = calibration.size[1] if is_sized else FULL_WIDTH
        width = self._target.width if is_sized else FULL_WIDTH
        try:
            if is_sized:
                calibration.check_aspect(image_size_of(message))  # before anything is decoded
            pixels = image_of(message, nominal_width=nominal, width=width, max_pixels=self._max_image_pixels)
            calibration = calibration.of_image(pixels)
            calibration.check_aspect((pixels.shape[0], pixels.shape[1]))
        except ValueError as error:
            self._on_fault(name, str(error))
            return None, camera if is_sized else None
        if doubt := loses_colours(message):
            self._on_fault(name, doubt)
        return self._rectifiers[index].rectify(pixels, calibration), (calibration, mounting)

    def _check_missing(self, pixels: list[np.ndarray | None]) -> None:
        unusable = [name for name, image in zip(self._cameras, pixels, strict=True) if image is None]
        if len(unusable) == len(pixels) or (unusable and self._missing_camera == "skip"):
            raise UnusableSet(drops.unusable(unusable))

    def _frame(
        self, images: ImageSet, pixels: Sequence[np.ndarray | None], rig: Sequence[CalibratedCamera]
    ) -> tuple[CameraFrame, bool]:
        reference_pose = self._motion.odom_from_ego(images.stamp_ns)
        # A missing camera has no motion to make up for.
        stamps = [images.stamp_ns if stamp is None else stamp for stamp in images.stamps_ns]
        mountings, motion_known = compensate(
            np.stack([mounting for _, mounting in rig]),
            reference_pose,
            [self._motion.odom_from_ego(stamp) for stamp in stamps],
        )
        pose = np.eye(4) if reference_pose is None else reference_pose
        frame = self._assemble(pixels, rig, images.stamp_ns, mountings, pose, next(self._buffers))
        return replace(frame, motion=motion_from_twist(self._motion.twist_at(images.stamp_ns))), motion_known

    def _fitted(self, rig: Sequence[CalibratedCamera]) -> CameraRig:
        """Rig of the vehicle, for images of the network's input size."""
        nobody = [None] * len(rig)
        return self._assemble(nobody, rig, 0, np.stack([mounting for _, mounting in rig]), np.eye(4)).rig

    def _coverage(self, rig: Sequence[CalibratedCamera]) -> list[CameraCoverage]:
        return coverage_of(
            self._cameras,
            np.stack([calibration.matrix for calibration, _ in rig]),
            np.stack([mounting for _, mounting in rig]),
            [calibration.size for calibration, _ in rig],
            self._target,
        )

    def _assemble(
        self,
        pixels: Sequence[np.ndarray | None],
        rig: Sequence[CalibratedCamera],
        stamp_ns: int,
        mountings: np.ndarray,
        global_from_ego: np.ndarray,
        out: Tensor | None = None,
    ) -> CameraFrame:
        return frame_from_images(
            pixels,
            stamp_ns=stamp_ns,
            names=self._training_rig.names,
            intrinsics=np.stack([calibration.matrix for calibration, _ in rig]),
            sizes=[calibration.size for calibration, _ in rig],
            ego_from_camera=mountings,
            mountings=np.stack([mounting for _, mounting in rig]),
            global_from_ego=global_from_ego,
            target=self._target,
            out=out,
            run=self._pool.map,
        )


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Write how long the block took [ms] into `stages`."""
    started = time.perf_counter()
    yield
    stages[name] = (time.perf_counter() - started) * 1e3

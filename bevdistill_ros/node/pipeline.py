"""From a set of image messages to detections: what the worker thread does."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Literal, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.frame import frame_from_images
from bevdistill_ros.node.records import ImageSet, Outcome
from bevdistill_ros.node.rig.calibration import Calibration, CalibrationStore
from bevdistill_ros.node.rig.ego_motion import EgoMotion, compensate
from bevdistill_ros.node.rig.mountings import Mountings
from bevdistill_ros.node.rig.rectifier import Rectifier
from bevdistill_ros.node.rig.rig_file import calibrations_of

MOUNTING_TOLERANCE = 1e-3  # [m, and sine of an angle] mountings that change by more are a change of the rig


class Engine(Protocol):
    """What runs the network."""

    stage_ms: dict[str, float]  # of the last `infer`: preprocess, inference, postprocess

    def infer(self, frame: CameraFrame) -> Detections:
        """Detect, and remember the look for the next."""

    def reset(self) -> None:
        """Forget the temporal memory."""


CalibratedCamera = tuple[Calibration, np.ndarray]  # intrinsics, and mounting ego_from_camera (4, 4) [m]


class UnusableSet(ValueError):
    """A set that cannot be used; the message is the reason."""


class Pipeline:
    """Decodes, calibrates and detects.

    Args:
        engine: What runs the network.
        cameras: Camera names of the node, in the order of the model's cameras.
        training_rig: Rig of training in that order; the network's names and image size come from it.
        image_of: Decodes a message; called as `image_of(message, nominal_width=..., width=...)`, raises ValueError.
        calibrations: Intrinsics as they come in.
        mountings: Where the cameras sit.
        motion: How the vehicle moves.
        missing_camera: What to do with a set that has an unusable image.
        max_wait_s: Longest wait for poses and calibrations of a set [s].
        decode_threads: Threads that decode images, at most; never more than there are cores.
        on_fault: Called with a camera and what is wrong with its image or calibration.
        on_rig_change: Called when intrinsics or mountings changed, and the memory was reset.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        cameras: Sequence[str],
        training_rig: CameraRig,
        image_of: Callable[..., np.ndarray],
        calibrations: CalibrationStore,
        mountings: Mountings,
        motion: EgoMotion,
        missing_camera: Literal["skip", "blank"],
        max_wait_s: float,
        decode_threads: int,
        on_fault: Callable[[str, str], None],
        on_rig_change: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._cameras = tuple(cameras)
        self._training_rig = training_rig
        self._image_of = image_of
        self._calibrations = calibrations
        self._mountings = mountings
        self._motion = motion
        self._missing_camera = missing_camera
        self._max_wait_s = max_wait_s
        self._on_fault = on_fault
        self._on_rig_change = on_rig_change
        self._rectifiers = [Rectifier() for _ in self._cameras]
        num_threads = min(decode_threads, os.cpu_count() or 1)  # more would only take turns
        self._pool = ThreadPoolExecutor(max_workers=num_threads, thread_name_prefix="decode")
        cv2.setNumThreads(1)  # one image a thread; threads inside of them would only wait for each other
        self._images = torch.empty((len(self._cameras), 3, *training_rig.image_size), dtype=torch.uint8)
        # Of a blank camera the network sees nothing, but a rig has no gaps: the training rig fills them.
        self._filling: list[CalibratedCamera] = list(
            zip(calibrations_of(training_rig).values(), training_rig.ego_from_camera.double().numpy(), strict=True)
        )
        self._reset_wanted = threading.Event()
        self._last_rig: list[CalibratedCamera | None] = [None] * len(self._cameras)
        self._rig_is_fresh = False

    def request_reset(self) -> None:
        """Forget the temporal memory before the next set; safe to call from any thread."""
        self._reset_wanted.set()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True)

    def run(self, images: ImageSet) -> Outcome:
        """Detect in a set.

        Raises:
            UnusableSet: An image or calibration is not usable, and the policy does not allow a blank camera.
        """
        stages = {"transport_age": images.transport_age_ms}
        self._await_sources(images)
        stages["wait"] = (time.monotonic() - images.received) * 1e3
        with timed(stages, "decode"):
            rig = [self._calibrated(index, images) for index in range(len(self._cameras))]
            pixels = list(self._pool.map(lambda index: self._decoded(index, images, rig[index]), range(len(rig))))
        self._check_missing(pixels)
        self._note_rig(rig)
        with timed(stages, "preprocess"):
            frame, motion_known = self._frame(images, pixels, rig)
        # Without poses the memory would be warped by a motion that nobody knows.
        if self._reset_wanted.is_set() or not motion_known:
            self._reset_wanted.clear()
            self._engine.reset()
        detections = self._engine.infer(frame)
        stages["preprocess"] += self._engine.stage_ms["preprocess"]
        stages |= {name: self._engine.stage_ms[name] for name in ("inference", "postprocess")}
        return Outcome(frame=frame, detections=detections, stage_ms=stages, motion_known=motion_known)

    def fresh_rig(self) -> CameraRig | None:
        """Rig of the vehicle, once after each change of it; None otherwise, or as long as a camera is not known."""
        known = [entry for entry in self._last_rig if entry is not None]
        if not self._rig_is_fresh or len(known) < len(self._last_rig):
            return None
        self._rig_is_fresh = False
        stamp_ns, nobody = 0, [None] * len(known)
        return self._assemble(nobody, known, stamp_ns, np.stack([mounting for _, mounting in known]), np.eye(4)).rig

    def _await_sources(self, images: ImageSet) -> None:
        deadline = time.monotonic() + self._max_wait_s
        stamps = [stamp for stamp in images.stamps_ns if stamp is not None]
        self._motion.wait_for(max(stamps), self._max_wait_s)
        present = [name for name, stamp in zip(self._cameras, images.stamps_ns, strict=True) if stamp is not None]
        self._calibrations.wait_for(present, max(deadline - time.monotonic(), 0.0))

    def _calibrated(self, index: int, images: ImageSet) -> CalibratedCamera | None:
        """Intrinsics and mounting of a camera at its stamp; None where it is missing or they are not usable."""
        name, stamp = self._cameras[index], images.stamps_ns[index]
        if stamp is None:
            return None
        try:
            calibration = self._calibrations.get(name)
            return calibration, self._mountings.ego_from_camera(name, calibration.frame_id, stamp)
        except ValueError as error:
            self._on_fault(name, str(error))
            return None

    def _decoded(self, index: int, images: ImageSet, rig: CalibratedCamera | None) -> np.ndarray | None:
        """Pixels of a camera; None where it is missing or its image is not usable."""
        if rig is None:
            return None
        calibration, _ = rig
        try:
            pixels = self._image_of(
                images.messages[index], nominal_width=calibration.size[1], width=self._training_rig.image_size[1]
            )
            calibration.check_aspect(pixels)
        except ValueError as error:
            self._on_fault(self._cameras[index], str(error))
            return None
        return self._rectifiers[index].rectify(pixels, calibration)

    def _check_missing(self, pixels: list[np.ndarray | None]) -> None:
        unusable = [name for name, image in zip(self._cameras, pixels, strict=True) if image is None]
        if len(unusable) == len(pixels) or (unusable and self._missing_camera == "skip"):
            raise UnusableSet(f"unusable {', '.join(unusable)}")

    def _note_rig(self, rig: list[CalibratedCamera | None]) -> None:
        """Reset the memory where a camera was turned, moved or exchanged since its last image."""
        pairs = [
            (old, new) for old, new in zip(self._last_rig, rig, strict=True) if old is not None and new is not None
        ]
        changed = any(
            not old[0].same_as(new[0]) or np.abs(old[1] - new[1]).max() > MOUNTING_TOLERANCE for old, new in pairs
        )
        if changed or len(pairs) < sum(entry is not None for entry in rig):
            self._rig_is_fresh = True
        self._last_rig = [new or old for old, new in zip(self._last_rig, rig, strict=True)]
        if changed:
            self.request_reset()
            self._on_rig_change()

    def _frame(
        self, images: ImageSet, pixels: Sequence[np.ndarray | None], rig: list[CalibratedCamera | None]
    ) -> tuple[CameraFrame, bool]:
        full = [
            now or before or filling for now, before, filling in zip(rig, self._last_rig, self._filling, strict=True)
        ]
        reference_pose = self._motion.odom_from_ego(images.stamp_ns)
        # A missing camera has no motion to make up for.
        stamps = [images.stamp_ns if stamp is None else stamp for stamp in images.stamps_ns]
        mountings, motion_known = compensate(
            np.stack([mounting for _, mounting in full]),
            reference_pose,
            [self._motion.odom_from_ego(stamp) for stamp in stamps],
        )
        pose = np.eye(4) if reference_pose is None else reference_pose
        return self._assemble(pixels, full, images.stamp_ns, mountings, pose, self._images), motion_known

    def _assemble(
        self,
        pixels: Sequence[np.ndarray | None],
        rig: Sequence[CalibratedCamera],
        stamp_ns: int,
        mountings: np.ndarray,
        global_from_ego: np.ndarray,
        out: Tensor | None = None,
    ) -> CameraFrame:
        height, width = self._training_rig.image_size
        return frame_from_images(
            pixels,
            stamp_ns=stamp_ns,
            names=self._training_rig.names,
            intrinsics=np.stack([calibration.matrix for calibration, _ in rig]),
            sizes=[calibration.size for calibration, _ in rig],
            ego_from_camera=mountings,
            global_from_ego=global_from_ego,
            height=height,
            width=width,
            out=out,
            run=self._pool.map,
        )


@contextmanager
def timed(stages: dict[str, float], name: str) -> Iterator[None]:
    """Write how long the block took [ms] into `stages`."""
    started = time.perf_counter()
    yield
    stages[name] = (time.perf_counter() - started) * 1e3

"""A configured detector: everything between loading the bundle and releasing it."""

import traceback
from collections.abc import Sequence
from contextlib import ExitStack

from rclpy.lifecycle import LifecycleNode

from bevdistill_ros.core.rig import CameraRig, VehicleRig
from bevdistill_ros.core.text import one_line
from bevdistill_ros.inference.coverage import CameraCoverage
from bevdistill_ros.inference.rig_file import load_rig
from bevdistill_ros.interface import drops
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node.build import in_model_order, make_engine, make_odometry, make_pipeline
from bevdistill_ros.node.diagnostics import Monitor, calibration_item, model_item
from bevdistill_ros.node.pipeline import UnusableSet
from bevdistill_ros.node.publishers import Publishers
from bevdistill_ros.node.records import DroppedSet, ImageSet, Item
from bevdistill_ros.node.rig.calibration import calibrations_of
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.rig.ego_motion import EgoMotion, NoEgoMotion
from bevdistill_ros.node.rig.from_tf import TfMotion, TfMountings
from bevdistill_ros.node.rig.mountings import Mountings, RigMountings
from bevdistill_ros.node.rig.training_rig import differences_from_training
from bevdistill_ros.node.sets import Listeners
from bevdistill_ros.node.sources import CameraInfoTopics, OdometryTopic
from bevdistill_ros.node.subscriptions import Subscriptions
from bevdistill_ros.node.sync.filters import require_message_filters
from bevdistill_ros.node.tf import Transforms
from bevdistill_ros.node.worker import LatestWorker

MAX_FAULT = 600  # characters of a fault in the log and in /diagnostics
THROTTLE_S = 5.0  # between two log lines of one kind


class Session:
    """Model, sources of the rig and of the ego motion, publishers; once started, images and the worker thread.

    Args:
        node: The node that it belongs to.
        parameters: Its parameters.

    Raises:
        ValueError: The bundle is missing or refused, or a parameter does not fit it.
    """

    def __init__(self, node: LifecycleNode, parameters: DetectorParameters) -> None:
        self._node = node
        self._log = node.get_logger()
        self._engine = make_engine(parameters)
        manifest = self._engine.manifest
        self.model_name = f"{manifest.name} {manifest.version}"
        self.description = f"{self.model_name}, {self._engine.description}"
        for line in self._engine.warnings:
            self._log.warning(line)
        self._parameters = parameters = in_model_order(parameters, manifest.student.cameras)
        if parameters.sync.policy == "approximate_time":
            require_message_filters()
        self._closing = ExitStack()
        self._monitor = self._make_monitor()
        self._rig_differences: list[str] = []
        self._subscriptions: Subscriptions | None = None
        self._worker: LatestWorker[ImageSet] | None = None
        try:
            self._open()
        except Exception:
            self.close()
            raise

    def _open(self) -> None:
        parameters, manifest = self._parameters, self._engine.manifest
        rig = load_rig(parameters.rig_file).select(parameters.cameras) if parameters.rig_file else None
        self._transforms = self._make_transforms() if rig is None or parameters.ego_motion.source == "tf" else None
        self._calibrations = self._make_calibrations(rig)
        self._motion = self._make_motion()
        self._pipeline = make_pipeline(
            parameters,
            self._engine,
            calibrations=self._calibrations,
            mountings=self._make_mountings(rig),
            motion=self._motion,
            on_fault=self._fault,
        )
        self._closing.callback(self._pipeline.close)
        self._publishers = Publishers(
            self._node,
            cameras=parameters.cameras,
            base_frame=parameters.base_frame,
            model=self.model_name,
            grid=manifest.grid,
        )
        self._closing.callback(self._publishers.close)

    def start(self) -> None:
        """Listen and detect."""
        self._monitor = self._make_monitor()
        self._pipeline.request_reset()
        self._worker = LatestWorker(self._work, lambda images: self._drop(images.dropped(drops.BUSY)))
        listeners = Listeners(
            on_set=self._worker.offer,
            on_image=lambda camera: self._monitor.image(camera, self._now_ns()),
            on_drop=self._drop,
            on_clock_jump=self._clock_went_back,
            on_fault=self._fault,
        )
        try:
            self._subscriptions = Subscriptions(self._node, self._parameters, listeners)
        except Exception:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop listening to images, and finish the set at hand."""
        if self._subscriptions is not None:
            self._subscriptions.close()
        if self._worker is not None:
            self._worker.stop()
        self._subscriptions = self._worker = None

    def close(self) -> None:
        """Release everything."""
        self._closing.close()

    def request_reset(self) -> None:
        """Forget the temporal memory before the next set."""
        self._pipeline.request_reset()

    def diagnostics(self, now_ns: int) -> list[Item]:
        """How it is doing."""
        model = model_item(self.description, self._engine.warnings)
        if self._subscriptions is None:
            return [model]
        cameras = self._parameters.cameras
        calibration = calibration_item(
            *self._calibrations.described(cameras), self._rig_differences, is_new=self._monitor.is_new(now_ns)
        )
        return [model, calibration, *self._monitor.items(now_ns, self._subscriptions.described())]

    def _make_monitor(self) -> Monitor:
        return Monitor(self._parameters.cameras, self._parameters.diagnostics, started_ns=self._now_ns())

    def _make_transforms(self) -> Transforms:
        transforms = Transforms(self._node)
        self._closing.callback(transforms.close)
        return transforms

    def _make_calibrations(self, rig: VehicleRig | None) -> CalibrationStore:
        if rig is not None and self._parameters.intrinsics == "rig_file":
            return CalibrationStore(calibrations_of(rig).items)
        topics = CameraInfoTopics(self._node, self._parameters)
        self._closing.callback(topics.close)
        return CalibrationStore(topics.take)

    def _make_mountings(self, rig: VehicleRig | None) -> Mountings:
        parameters = self._parameters
        if rig is not None:
            return RigMountings(rig)
        return TfMountings(self._transforms, parameters.base_frame, max_wait_s=parameters.ego_motion.max_wait_ms / 1e3)

    def _make_motion(self) -> EgoMotion:
        parameters = self._parameters
        match parameters.ego_motion.source:
            case "odometry":
                topic = OdometryTopic(self._node, parameters.base_frame, self._fault)
                self._closing.callback(topic.close)
                return make_odometry(parameters, topic.take)
            case "tf":
                return TfMotion(
                    self._transforms,
                    parameters.odom_frame,
                    parameters.base_frame,
                    max_extrapolation_s=parameters.ego_motion.max_extrapolation_ms / 1e3,
                )
            case "none":
                return NoEgoMotion()

    def _work(self, images: ImageSet) -> None:
        """Work on a set; nothing that goes wrong with one set may end the thread."""
        try:
            try:
                self._detect(images)
            except UnusableSet as error:
                self._drop(images.dropped(str(error)))
            except Exception as error:
                self._drop(images.dropped(drops.failed(error)))
                raise
        except Exception:
            # A signal may end the context during the work, which then fails in its own way.
            if self._node.context.ok():
                self._log.error(traceback.format_exc(), throttle_duration_sec=THROTTLE_S)

    def _detect(self, images: ImageSet) -> None:
        self._engine.score_threshold = self._node.get_parameter("score_threshold").value
        self._engine.max_detections = self._node.get_parameter("max_detections").value
        outcome = self._pipeline.run(images)
        self._publishers.publish(images, outcome, self._monitor)
        if outcome.rig_changed:
            self._log.warning("the camera rig changed; temporal memory is reset")
        if outcome.new_rig is not None:
            self._compare_rigs(outcome.new_rig, outcome.coverage)

    def _compare_rigs(self, rig: CameraRig, coverage: Sequence[CameraCoverage]) -> None:
        """Warn of how the rig differs from that of training, and of cameras of which the network sees too little."""
        differences = differences_from_training(
            self._parameters.cameras,
            rig,
            self._engine.manifest.rig,
            focal_tolerance=self._parameters.diagnostics.focal_tolerance,
        )
        self._rig_differences = [*(camera.problem for camera in coverage if camera.problem), *differences]
        for line in self._rig_differences:
            self._log.warning(line)

    def _drop(self, lost: DroppedSet) -> None:
        self._publishers.publish_dropped(lost, self._monitor)
        if lost.reason != drops.BUSY:
            self._log.warning(f"set dropped: {lost.reason}", throttle_duration_sec=THROTTLE_S)

    def _fault(self, subject: str, message: str) -> None:
        message = one_line(message, MAX_FAULT)
        self._monitor.fault(subject, message, self._now_ns())
        self._log.warning(f"{subject}: {message}", throttle_duration_sec=THROTTLE_S)

    def _clock_went_back(self, stamp_ns: int) -> None:
        self._log.warning("image stamps went back; waiting images and temporal memory are forgotten")
        if self._worker is not None:
            for images in self._worker.clear():
                self._drop(images.dropped(drops.CLOCK_WENT_BACK))
        self._motion.forget_after(stamp_ns)
        if self._transforms is not None:
            self._transforms.clear()  # what comes now is older than what it holds, so it would refuse it
        self._pipeline.request_reset()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)

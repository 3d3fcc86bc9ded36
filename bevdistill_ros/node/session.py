"""A configured detector: everything between loading the bundle and letting go of it."""

import traceback
from collections.abc import Sequence
from dataclasses import replace

import torch
from rclpy.lifecycle import LifecycleNode

from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.temporal_memory import MemoryLimits
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node import convert
from bevdistill_ros.node.diagnostics import BUSY, Monitor, calibration_item
from bevdistill_ros.node.pipeline import Pipeline, UnusableSet
from bevdistill_ros.node.publishers import Outputs
from bevdistill_ros.node.records import DroppedSet, ImageSet, Item, Level
from bevdistill_ros.node.rig.calibration import CalibrationStore
from bevdistill_ros.node.rig.ego_motion import EgoMotion, NoEgoMotion, OdometryBuffer
from bevdistill_ros.node.rig.from_tf import TfMotion, TfMountings
from bevdistill_ros.node.rig.mountings import Mountings, RigMountings
from bevdistill_ros.node.rig.rig_file import calibrations_of, load_rig
from bevdistill_ros.node.rig.training_rig import differences_from_training
from bevdistill_ros.node.subscriptions import Inputs, Listeners
from bevdistill_ros.node.sync.filters import require_message_filters
from bevdistill_ros.node.tf import Transforms
from bevdistill_ros.node.worker import LatestWorker

THROTTLE_S = 5.0  # between two log lines of one kind


class Session:
    """Model, publishers and, once started, subscriptions and the worker thread.

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
        self.description = f"{self.model_name} on {self._engine.device}, {parameters.precision}"
        self._parameters = parameters = in_model_order(parameters, manifest.student.cameras)
        if parameters.sync.policy == "approximate_time":
            require_message_filters()
        self._monitor = self._make_monitor()
        self._calibrations = CalibrationStore()
        rig = load_rig(parameters.rig_file).select(parameters.cameras) if parameters.rig_file else None
        if rig is not None and parameters.intrinsics == "rig_file":
            for name, calibration in calibrations_of(rig).items():
                self._calibrations.put(name, calibration)
        self._transforms = Transforms(node) if rig is None or parameters.ego_motion.source == "tf" else None
        self._motion = self._make_motion()
        self._pipeline = self._make_pipeline(RigMountings(rig) if rig is not None else self._tf_mountings())
        self._rig_differences: list[str] = []
        self._inputs: Inputs | None = None
        self._worker: LatestWorker[ImageSet] | None = None
        self._outputs = Outputs(
            node,
            cameras=parameters.cameras,
            base_frame=parameters.base_frame,
            model=self.model_name,
            grid=manifest.grid,
        )

    def start(self) -> None:
        """Listen and detect."""
        self._monitor = self._make_monitor()
        self._pipeline.request_reset()
        self._worker = LatestWorker(self._work, lambda images: self._drop(dropped(images, BUSY)))
        listeners = Listeners(
            on_set=self._worker.offer,
            on_image=lambda camera: self._monitor.image(camera, self._now_ns()),
            on_drop=self._drop,
            on_clock_jump=self._clock_went_back,
            on_fault=self._fault,
        )
        parameters = self._parameters
        try:
            self._inputs = Inputs(
                self._node,
                parameters,
                calibrations=self._calibrations if parameters.intrinsics == "camera_info" else None,
                odometry=self._motion if isinstance(self._motion, OdometryBuffer) else None,
                listeners=listeners,
            )
        except Exception:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop listening, and finish the set at hand."""
        if self._inputs is not None:
            self._inputs.close()
        if self._worker is not None:
            self._worker.stop()
        self._inputs = self._worker = None

    def close(self) -> None:
        """Let go of everything."""
        self._pipeline.close()
        self._outputs.close()
        if self._transforms is not None:
            self._transforms.close()

    def request_reset(self) -> None:
        """Forget the temporal memory before the next set."""
        self._pipeline.request_reset()

    def diagnostics(self, now_ns: int) -> list[Item]:
        """How it is doing."""
        model = Item(name="model", level=Level.OK, message=self.description)
        if self._inputs is None:
            return [model]
        cameras = self._parameters.cameras
        calibration = calibration_item(
            *self._calibrations.described(cameras), self._rig_differences, is_new=self._monitor.is_new(now_ns)
        )
        return [model, calibration, *self._monitor.items(now_ns, self._inputs.sources())]

    def _make_monitor(self) -> Monitor:
        return Monitor(self._parameters.cameras, self._parameters.diagnostics, started_ns=self._now_ns())

    def _make_pipeline(self, mountings: Mountings) -> Pipeline:
        parameters = self._parameters
        return Pipeline(
            engine=self._engine,
            cameras=parameters.cameras,
            training_rig=self._engine.manifest.rig,
            image_of=convert.image_of,
            calibrations=self._calibrations,
            mountings=mountings,
            motion=self._motion,
            missing_camera=parameters.missing_camera,
            max_wait_s=parameters.ego_motion.max_wait_ms / 1e3,
            decode_threads=parameters.decode_threads,
            on_fault=self._fault,
            on_rig_change=lambda: self._log.warning("the camera rig changed; temporal memory is reset"),
        )

    def _tf_mountings(self) -> TfMountings:
        parameters = self._parameters
        return TfMountings(self._transforms, parameters.base_frame, max_wait_s=parameters.ego_motion.max_wait_ms / 1e3)

    def _make_motion(self) -> EgoMotion:
        motion = self._parameters.ego_motion
        match motion.source:
            case "odometry":
                return OdometryBuffer(max_gap_s=motion.max_gap_s)
            case "tf":
                assert self._transforms is not None
                return TfMotion(self._transforms, self._parameters.odom_frame, self._parameters.base_frame)
            case "none":
                return NoEgoMotion()

    def _work(self, images: ImageSet) -> None:
        """Work on a set; nothing that goes wrong with one set may end the thread."""
        try:
            try:
                self._detect(images)
            except UnusableSet as error:
                self._drop(dropped(images, str(error)))
            except Exception as error:
                self._drop(dropped(images, f"failed: {type(error).__name__}"))
                raise
        except Exception:
            # A signal may end the context amid the work, which then fails in its own way.
            if self._node.context.ok():
                self._log.error(traceback.format_exc(), throttle_duration_sec=THROTTLE_S)

    def _detect(self, images: ImageSet) -> None:
        self._engine.score_threshold = self._node.get_parameter("score_threshold").value
        self._engine.max_detections = self._node.get_parameter("max_detections").value
        self._outputs.publish(images, self._pipeline.run(images), self._monitor)
        self._compare_rigs()

    def _compare_rigs(self) -> None:
        """Tell once, and again after a change, how the rig differs from that of training."""
        rig = self._pipeline.fresh_rig()
        if rig is None:
            return
        self._rig_differences = differences_from_training(
            self._parameters.cameras,
            rig,
            self._engine.manifest.rig,
            focal_tolerance=self._parameters.diagnostics.focal_tolerance,
        )
        for line in self._rig_differences:
            self._log.warning(line)

    def _drop(self, lost: DroppedSet) -> None:
        self._outputs.publish_dropped(lost, self._monitor)
        if lost.reason != BUSY:
            self._log.warning(f"set dropped: {lost.reason}", throttle_duration_sec=THROTTLE_S)

    def _fault(self, subject: str, message: str) -> None:
        self._monitor.fault(subject, message, self._now_ns())
        self._log.warning(f"{subject}: {message}", throttle_duration_sec=THROTTLE_S)

    def _clock_went_back(self, stamp_ns: int) -> None:
        self._log.warning("image stamps went back; waiting images and temporal memory are forgotten")
        if self._worker is not None:
            for images in self._worker.clear():
                self._drop(dropped(images, "clock went back"))
        self._motion.forget_after(stamp_ns)
        self._pipeline.request_reset()

    def _now_ns(self) -> int:
        return int(self._node.get_clock().now().nanoseconds)


def dropped(images: ImageSet, reason: str) -> DroppedSet:
    """A set that was put together and then not used."""
    return DroppedSet(reason=reason, stamp_ns=images.stamp_ns, stamps_ns=images.stamps_ns)


def make_engine(parameters: DetectorParameters) -> Engine:
    """Load the bundle and make it ready.

    Raises:
        ValueError: The bundle is missing or refused, or the engine cannot run so.
    """
    if not parameters.bundle:
        raise ValueError("parameter bundle is empty; give the folder of a model bundle")
    if parameters.engine != "torch":
        raise ValueError(f"engine {parameters.engine} cannot run this bundle; set engine to torch")
    if parameters.num_threads:
        torch.set_num_threads(parameters.num_threads)
    temporal = parameters.temporal
    engine = Engine(
        load_bundle(parameters.bundle),
        device=parameters.device,
        precision=parameters.precision,
        temporal=MemoryLimits(
            interval_s=temporal.interval_s, max_gap_s=temporal.max_gap_s, max_jump_m=temporal.max_jump_m
        ),
    )
    engine.warm_up()
    return engine


def in_model_order(parameters: DetectorParameters, model_cameras: Sequence[str]) -> DetectorParameters:
    """Parameters with the cameras in the model's order.

    Cameras of the model's own names are put into its order. Cameras of other names take the model's places one by one.

    Raises:
        ValueError: Their number is not that of the model.
    """
    cameras = parameters.cameras
    if len(cameras) != len(model_cameras):
        raise ValueError(
            f"parameter cameras names {len(cameras)}, but the bundle takes {len(model_cameras)} cameras in the order "
            f"{', '.join(model_cameras)}"
        )
    known = [name for name in cameras if name in model_cameras]
    if known and len(known) < len(cameras):
        foreign = [name for name in cameras if name not in model_cameras]
        raise ValueError(
            f"parameter cameras mixes names of the bundle ({', '.join(known)}) with others ({', '.join(foreign)}); "
            "use the bundle's names for all, or for none and give them in the bundle's order"
        )
    sync = replace(parameters.sync, reference_camera=parameters.reference_camera)
    return replace(parameters, cameras=tuple(model_cameras) if known else cameras, sync=sync)

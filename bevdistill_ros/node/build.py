"""The parts of a detector from its parameters. They need no ROS: what comes from topics is given to them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from bevdistill_ros.inference.bundle import load_bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.temporal_memory import MemoryLimits
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node.pipeline import Pipeline
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.rig.ego_motion import EgoMotion
from bevdistill_ros.node.rig.live_rig import LiveRig
from bevdistill_ros.node.rig.mountings import Mountings
from bevdistill_ros.node.rig.odometry import OdometryBuffer, OdometrySource
from bevdistill_ros.node.rig.waiting import REAL_TIME, Waiting


def make_odometry(
    parameters: DetectorParameters, source: OdometrySource, *, time: Waiting = REAL_TIME
) -> OdometryBuffer:
    """Ego motion from poses that a source gives."""
    return OdometryBuffer(
        source,
        max_gap_s=parameters.ego_motion.max_gap_s,
        max_extrapolation_s=parameters.ego_motion.max_extrapolation_ms / 1e3,
        time=time,
    )


def make_pipeline(
    parameters: DetectorParameters,
    engine: Engine,
    *,
    calibrations: CalibrationStore,
    mountings: Mountings,
    motion: EgoMotion,
    on_fault: Callable[[str, str], None],
    time: Waiting = REAL_TIME,
    num_buffers: int = 1,
) -> Pipeline:
    """What makes detections of sets.

    Args:
        parameters: With the cameras in the order of the model's.
        engine: What runs the network.
        calibrations: Intrinsics as they come in.
        mountings: Where the cameras sit.
        motion: How the vehicle moves.
        on_fault: Called with a subject, such as a camera, and what is wrong with it.
        time: In which poses and calibrations are waited for.
        num_buffers: See `Pipeline`.
    """
    rig = LiveRig(
        parameters.cameras, engine.manifest.rig, calibrations=calibrations, mountings=mountings, on_fault=on_fault
    )
    return Pipeline(
        engine=engine,
        cameras=parameters.cameras,
        training_rig=engine.manifest.rig,
        target=engine.config.images,
        rig=rig,
        motion=motion,
        missing_camera=parameters.missing_camera,
        max_wait_s=parameters.ego_motion.max_wait_ms / 1e3,
        max_image_pixels=parameters.max_image_pixels,
        decode_threads=parameters.decode_threads,
        on_fault=on_fault,
        time=time,
        num_buffers=num_buffers,
    )


def make_engine(parameters: DetectorParameters) -> Engine:
    """Load the bundle and make it ready.

    Raises:
        ValueError: The bundle is missing or refused, or the engine cannot run so.
    """
    if not parameters.bundle:
        raise ValueError("parameter bundle is empty; give the folder of a model bundle")
    if parameters.num_threads:
        torch.set_num_threads(parameters.num_threads)
    temporal = parameters.temporal
    engine = Engine(
        load_bundle(parameters.bundle),
        parameters.engine_choice,
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

"""Calibrations and mountings of the sensors of a bag."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from bevdistill_ros.interface.topic_guess import is_rectified_name
from bevdistill_ros.node.rig.calibration import SIZE_OF_IMAGE, Calibration
from training.bag.read_bag import Bag, BagError
from training.bag_import.pixels import calibration_of
from training.bag_import.records import SensorFile
from training.bag_import.rows import Calibrated
from training.bag_import.scan import Scan
from training.bag_import.sources import Sources
from training.data.tables import LIDAR


def calibrate(bag: Bag, sources: Sources, found: Scan) -> tuple[dict[str, Calibrated], dict[str, Calibration]]:
    """Sensors, and the calibrations of the cameras among them.

    Raises:
        BagError: A calibration or mounting is missing, or cannot be right.
    """
    if sources.rig is not None:
        rig = sources.rig.select(sources.cameras)
        calibrations = {
            name: Calibration(matrix=matrix.numpy(), size=size)
            for name, matrix, size in zip(rig.names, rig.intrinsics, rig.image_sizes, strict=True)
        }
        mountings = dict(zip(rig.names, rig.ego_from_camera.numpy(), strict=True))
    else:
        calibrations = {camera: _calibration(bag, sources, found, camera) for camera in sources.cameras}
        mountings = {camera: _mounting(bag, sources, found, camera) for camera in sources.cameras}
    if sources.lidar:
        mountings[LIDAR] = _mounting(bag, sources, found, LIDAR)
    sensors = {
        channel: Calibrated(
            channel=channel,
            ego_from_sensor=mounting,
            intrinsics=calibrations[channel].matrix if channel in calibrations else None,
        )
        for channel, mounting in mountings.items()
    }
    return sensors, calibrations


def _calibration(bag: Bag, sources: Sources, found: Scan, camera: str) -> Calibration:
    info, topic = found.infos.get(camera), sources.topics.image_topic(camera)
    if info is None:
        named = sources.topics.camera_info_topic(camera)
        what = f"{named} is missing or not usable" if named else "the topic map names no camera_info"
        raise BagError(f"{bag.path} has no calibration of {camera}: {what}; give rig, a YAML of the cameras")
    rectified = sources.topics.images_rectified
    try:
        return calibration_of(
            info, rectified=is_rectified_name(topic) if rectified is None else rectified, image_topic=topic
        )
    except ValueError as error:
        raise BagError(f"{bag.path}: the calibration of {camera} cannot be used: {error}") from error


def _mounting(bag: Bag, sources: Sources, found: Scan, channel: str) -> np.ndarray:
    info = found.infos.get(channel)
    frames = [
        info.header.frame_id.lstrip("/") if info is not None else "",
        found.sensor_frames.get(channel, ""),
        channel,
    ]
    frame = next((entry for entry in frames if entry), "")
    mounting = found.tree.mounting(sources.base_frame, frame)
    if mounting is None:
        raise BagError(
            f"{bag.path}: the transforms do not connect '{frame}' of {channel} to '{sources.base_frame}'; set "
            f"base_frame{', or give rig' if channel != LIDAR else ', or leave lidar_topic empty'}"
        )
    return mounting


def with_image_size(
    sensor: Calibrated, calibrations: Mapping[str, Calibration], files: Mapping[tuple[str, int], SensorFile]
) -> Calibrated:
    """A camera with the matrix of images of the size that they have."""
    calibration = calibrations.get(sensor.channel)
    sizes = {entry.size for entry in files.values() if entry.channel == sensor.channel}
    if calibration is None or not sizes:
        return sensor
    if len(sizes) > 1:
        raise BagError(f"the images of {sensor.channel} are of several sizes: {sorted(sizes)}")
    size = sizes.pop()
    if calibration.size == SIZE_OF_IMAGE or calibration.size == size:
        return sensor
    if abs(size[0] * calibration.size[1] - size[1] * calibration.size[0]) > max(size):
        raise BagError(
            f"the images of {sensor.channel} are {size[1]}x{size[0]}, of another aspect than their calibration, "
            f"{calibration.size[1]}x{calibration.size[0]}; it must be of these images"
        )
    return replace(sensor, intrinsics=calibration.matrix_at(size))

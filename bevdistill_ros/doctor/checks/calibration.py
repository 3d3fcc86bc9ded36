"""Findings about calibration and ego motion: camera_info, mountings, odometry."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from bevdistill_ros.core.rig import Rig
from bevdistill_ros.core.text import quote
from bevdistill_ros.doctor.checks.rig import CameraView
from bevdistill_ros.doctor.checks.ros import install_command
from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, ok, share_of, warn
from bevdistill_ros.doctor.records import ImageRecord, OdometryRecord, Recording
from bevdistill_ros.doctor.streams import Stream, lags_ms
from bevdistill_ros.interface.parameters import EgoMotionParameters
from bevdistill_ros.node.rig.calibration import SIZE_OF_IMAGE, Calibration
from bevdistill_ros.node.rig.mountings import RigMountings
from bevdistill_ros.node.rig.rectifier import Rectifier

MIN_ODOMETRY_HZ = 10.0  # slower, a pose at an image's stamp is guessed across a long way
_RECTIFIED = "set images_rectified of the node, or in the topic map, as the images are"
_CALIBRATE = "calibrate the camera and let its driver publish K, D and the image size"


def check_camera_infos(recording: Recording) -> tuple[list[Finding], dict[str, Calibration]]:
    """Findings about camera_info, and the usable ones by camera."""
    findings, calibrations = [], {}
    for camera, record in recording.calibrations.items():
        subject, calibration = f"{camera} camera_info", record.calibration
        if isinstance(calibration, Calibration):
            images = recording.images[camera]
            if isinstance(images.picture, np.ndarray):
                calibration = calibration.of_image(images.picture)
            calibration = replace(calibration, frame_id=calibration.frame_id or images.frame_id)
            if calibration.size != SIZE_OF_IMAGE:
                calibrations[camera] = calibration
            findings.append(_judge_calibration(subject, calibration, images))
        elif calibration is not None:
            findings.append(fail(subject, calibration, _CALIBRATE))
        elif not record.topic.types:
            remedy = "start it with the driver, or give --camera_info_topic; or set intrinsics to rig_file"
            findings.append(fail(subject, f"nobody publishes {record.topic.name}", remedy))
        else:
            remedy = "publish it with the images, or latched (transient local): else what was sent once is not heard"
            findings.append(fail(subject, f"{record.topic.name} is published, but none came", remedy))
    return findings, calibrations


def _judge_calibration(subject: str, calibration: Calibration, images: ImageRecord) -> Finding:
    rows, cols = calibration.size
    lens = calibration.model or "no distortion"
    size = f"{cols}x{rows}" if rows else "no size: that of the image"
    text = f"{size}, fx {calibration.matrix[0, 0]:.0f}, {lens}, frame {quote(calibration.frame_id)}"
    problems = []
    if isinstance(images.picture, np.ndarray):
        try:
            calibration.check_aspect((images.picture.shape[0], images.picture.shape[1]))
        except ValueError as error:
            problems.append(Problem(verdict=Verdict.FAIL, message=str(error), remedy=_CALIBRATE))
    if not calibration.frame_id:
        remedy = "let the driver fill header.frame_id with the optical frame"
        problems.append(Problem(verdict=Verdict.WARN, message="it names no frame, so tf cannot serve", remedy=remedy))
    if calibration.doubt:
        problems.append(Problem(verdict=Verdict.WARN, message=calibration.doubt, remedy=_RECTIFIED))
    return judge(subject, text, problems)


def check_rig_mountings(rig: Rig, cameras: Collection[str]) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Findings about cameras whose mountings (4, 4) [m] come from a rig file, and these by camera."""
    absent = [camera for camera in cameras if camera not in rig.names]
    found = [camera for camera in cameras if camera in rig.names]
    mountings = RigMountings(rig)
    poses = {camera: mountings.ego_from_camera(camera, "", 0) for camera in found}
    if absent:
        return [fail("mountings", f"the rig file lacks {', '.join(absent)}", "add them to the rig file")], poses
    return [ok("mountings", f"from the rig file, for {', '.join(found) or 'no camera with a calibration'}")], poses


def check_tf_mountings(
    mountings: Mapping[str, np.ndarray | str], frames: Mapping[str, str], *, base_frame: str
) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """Findings about mountings out of tf, and those that are known, by camera.

    Args:
        mountings: (4, 4) [m], or why tf does not know it, by camera.
        frames: Frame of each camera.
        base_frame: Frame of the ego vehicle.
    """
    poses, findings = {}, []
    for camera, found in mountings.items():
        if isinstance(found, str):
            findings.append(fail(f"{camera} tf", found, _tf_remedy(base_frame, frames[camera])))
        else:
            poses[camera] = found
            findings.append(ok(f"{camera} tf", f"{base_frame} <- {frames[camera]} at the image's stamp"))
    return findings, poses


def no_mountings() -> Finding:
    """What it means that there is neither tf nor a rig file."""
    text = "neither tf2_ros nor a rig_file is there, so the mountings of the cameras are unknown"
    return fail("mountings", text, f"{install_command('tf2_ros')}, or write a rig file and set rig_file")


def views_of_cameras(calibrations: Mapping[str, Calibration], poses: Mapping[str, np.ndarray]) -> list[CameraView]:
    """The cameras of which intrinsics and mounting are known."""
    return [
        CameraView(name=name, matrix=known.matrix, size=known.size, ego_from_camera=poses[name])
        for name, known in calibrations.items()
        if name in poses
    ]


def _tf_remedy(base_frame: str, frame_id: str) -> str:
    return (
        f"start robot_state_publisher or a static_transform_publisher {base_frame} -> {frame_id or 'camera frame'}; "
        f"ros2 run tf2_ros tf2_echo {base_frame} {frame_id or 'FRAME'}"
    )


def check_odometry(record: OdometryRecord, images: Stream, parameters: EgoMotionParameters) -> Finding:
    """Whether odometry comes, of the right frame, often enough and in time.

    Args:
        record: What came of it.
        images: Images of a camera, which need poses at their stamps.
        parameters: What the node makes of poses.
    """
    remedy = "start it, remap ~/input/odometry, or set ego_motion.source to tf or none"
    topic, stream = record.topic.name, record.stream
    if not record.topic.types:
        text = f"nobody publishes {topic}: sets are detected without memory"
        return warn("odometry", text, remedy)
    if not stream.stamps_ns:
        return warn("odometry", f"{topic} is published, but nothing came", f"ros2 topic hz {topic}")
    if record.fault:
        return fail("odometry", record.fault, "let it give the pose of base_frame, or set base_frame")
    rate = stream.rate_hz
    text = f"{topic}, {rate:.0f} Hz, {record.frames}"
    problems = []
    gap = float(np.diff(np.unique(stream.stamps_ns)).max(initial=0.0)) / 1e9
    if gap > parameters.max_gap_s:
        limit = f"ego_motion.max_gap_s ({parameters.max_gap_s:g} s)"
        text += f", a gap of {gap:.2f} s"
        problems.append(_odometry_problem("", f"poses further apart than {limit} are not used; publish it steadily"))
    elif rate < MIN_ODOMETRY_HZ:
        problems.append(_odometry_problem("", f"publish it at {MIN_ODOMETRY_HZ:.0f} Hz or more"))
    lags = lags_ms(images, stream, parameters.max_wait_ms)
    if len(lags) and lags.max() > 0:
        late, limit_ms = int((lags > parameters.max_extrapolation_ms).sum()), parameters.max_extrapolation_ms
        text += f", images up to {lags.max():.0f} ms ahead of the newest pose"
        if late:
            message = f"{share_of(late, len(lags))} images are further ahead than is extrapolated: no memory for them"
            remedy = "send it sooner or faster, compare clocks, or raise ego_motion.max_extrapolation_ms"
            problems.append(_odometry_problem(message, remedy))
        else:
            text += f", which is extrapolated (up to {limit_ms:g} ms)"
    return judge("odometry", text, problems)


def _odometry_problem(message: str, remedy: str) -> Problem:
    return Problem(verdict=Verdict.WARN, message=message, remedy=remedy)


def straight_pictures(recording: Recording, calibrations: Mapping[str, Calibration]) -> dict[str, np.ndarray]:
    """The last image of each camera (h, w, 3) uint8 RGB, without lens distortion."""
    pictures = {}
    for camera, calibration in calibrations.items():
        picture = recording.images[camera].picture
        if isinstance(picture, np.ndarray):
            pictures[camera] = Rectifier().rectify(picture, calibration)
    return pictures

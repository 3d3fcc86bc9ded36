"""Findings about calibration and ego motion of a running vehicle: camera_info, mountings, odometry."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.doctor.checks.rig import CameraView
from bevdistill_ros.doctor.checks.ros import install_command
from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, ok, warn
from bevdistill_ros.doctor.live.graph import Graph
from bevdistill_ros.doctor.live.recording import Recording, Track
from bevdistill_ros.node import convert
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.mountings import RigMountings
from bevdistill_ros.node.rig.rectifier import Rectifier

MIN_ODOMETRY_HZ = 10.0  # slower, a pose at an image's stamp is guessed across a long way
_CALIBRATE = "calibrate the camera and let its driver publish K, D and the image size"


@dataclass(frozen=True, kw_only=True)
class MountingSource:
    """Where the node takes the cameras' mountings from."""

    rig: CameraRig | None  # None: tf
    base_frame: str


def check_camera_infos(
    graph: Graph, recording: Recording, *, rectified: bool
) -> tuple[list[Finding], dict[str, Calibration]]:
    """Findings about camera_info, and the usable ones by camera."""
    findings, calibrations = [], {}
    for camera, track in recording.camera_infos.items():
        subject = f"{camera} camera_info"
        if not graph.publishers(track.topic):
            remedy = "start it with the driver, or tell --camera_info_topic; or set intrinsics to rig_file"
            findings.append(fail(subject, f"nobody publishes {track.topic}", remedy))
            continue
        if track.last is None:
            remedy = "it must come with the images: the node does not hear what was sent once, before it started"
            findings.append(fail(subject, f"{track.topic} is published, but none came", remedy))
            continue
        try:
            calibrations[camera] = convert.calibration_of(track.last, rectified=rectified)
        except ValueError as error:
            findings.append(fail(subject, str(error), _CALIBRATE))
            continue
        findings.append(_judge_calibration(subject, calibrations[camera], recording.images[camera]))
    return findings, calibrations


def _judge_calibration(subject: str, calibration: Calibration, images: Track) -> Finding:
    rows, cols = calibration.size
    lens = calibration.model or "no distortion"
    text = f"{cols}x{rows}, fx {calibration.matrix[0, 0]:.0f}, {lens}, frame '{calibration.frame_id}'"
    problems = []
    if images.last is not None and isinstance(images.picture, np.ndarray):
        try:
            calibration.check_aspect(images.picture)
        except ValueError as error:
            problems.append(Problem(verdict=Verdict.FAIL, message=str(error), remedy=_CALIBRATE))
    if not calibration.frame_id:
        remedy = "let the driver fill header.frame_id with the optical frame"
        problems.append(Problem(verdict=Verdict.WARN, message="it names no frame, so tf cannot serve", remedy=remedy))
    return judge(subject, text, problems)


def check_mountings(
    recording: Recording, calibrations: Mapping[str, Calibration], source: MountingSource
) -> tuple[list[Finding], list[CameraView]]:
    """Findings about where the cameras sit, and the cameras of which all is known."""
    findings, views = [], []
    if source.rig is not None:
        found = [camera for camera in calibrations if camera in source.rig.names]
        absent = [camera for camera in calibrations if camera not in source.rig.names]
        findings.append(
            fail("mountings", f"the rig file lacks {', '.join(absent)}", "add them to the rig file")
            if absent
            else ok("mountings", f"from the rig file, for {', '.join(found) or 'no camera with a calibration'}")
        )
        mountings = RigMountings(source.rig)
        poses = {camera: mountings.ego_from_camera(camera, "", 0) for camera in found}
    else:
        poses, findings = _look_up(recording, calibrations, source.base_frame)
    for camera, pose in poses.items():
        calibration = calibrations[camera]
        views.append(CameraView(name=camera, matrix=calibration.matrix, size=calibration.size, ego_from_camera=pose))
    return findings, views


def _look_up(
    recording: Recording, calibrations: Mapping[str, Calibration], base_frame: str
) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """Mountings (4, 4) [m] out of tf, each at the stamp of an image that tf has had time to reach."""
    if recording.transforms is None:
        text = "neither tf2_ros nor a rig_file is there, so nothing tells where the cameras sit"
        remedy = f"{install_command('tf2_ros')}, or write a rig file and set rig_file"
        return {}, [fail("mountings", text, remedy)]
    poses, findings = {}, []
    for camera, calibration in calibrations.items():
        stamps = recording.images[camera].stamps_ns
        stamp = stamps[len(stamps) // 2] if stamps else recording.now_ns
        try:
            poses[camera] = recording.transforms.lookup(base_frame, calibration.frame_id, stamp)
        except ValueError as error:
            findings.append(fail(f"{camera} tf", str(error), _tf_remedy(base_frame, calibration.frame_id)))
        else:
            findings.append(ok(f"{camera} tf", f"{base_frame} <- {calibration.frame_id} at the image's stamp"))
    return poses, findings


def _tf_remedy(base_frame: str, frame_id: str) -> str:
    return (
        f"start robot_state_publisher or a static_transform_publisher {base_frame} -> {frame_id or 'camera frame'}; "
        f"ros2 run tf2_ros tf2_echo {base_frame} {frame_id or 'FRAME'}"
    )


def check_odometry(graph: Graph, track: Track, *, base_frame: str, max_gap_s: float) -> Finding:
    """Whether odometry comes, of the right frame and often enough.

    Args:
        graph: The graph.
        track: What came of it.
        base_frame: Frame whose pose it must tell.
        max_gap_s: Poses further apart are not interpolated [s].
    """
    remedy = "start it, remap ~/input/odometry, or set ego_motion.source to tf or none"
    if not graph.publishers(track.topic):
        text = f"nobody publishes {track.topic}: each set waits for it in vain, and is detected without memory"
        return warn("odometry", text, remedy)
    if track.last is None or not track.stamps_ns:
        return warn("odometry", f"{track.topic} is published, but nothing came", f"ros2 topic hz {track.topic}")
    try:
        convert.odometry_of(track.last, base_frame=base_frame)
    except ValueError as error:
        return fail("odometry", str(error), "let it tell the pose of base_frame, or set base_frame")
    rate = track.stream.rate_hz
    text = f"{track.topic}, {rate:.0f} Hz, {track.last.header.frame_id} <- {track.last.child_frame_id or base_frame}"
    gap = float(np.diff(np.unique(track.stamps_ns)).max(initial=0.0)) / 1e9
    if gap > max_gap_s:
        remedy = f"poses further apart than ego_motion.max_gap_s ({max_gap_s:g} s) are not used; publish it steadily"
        return warn("odometry", f"{text}, a gap of {gap:.2f} s", remedy)
    if rate < MIN_ODOMETRY_HZ:
        return warn("odometry", text, f"publish it at {MIN_ODOMETRY_HZ:.0f} Hz or more; sets wait for the next pose")
    return ok("odometry", text)


def straight_pictures(recording: Recording, calibrations: Mapping[str, Calibration]) -> dict[str, np.ndarray]:
    """The last image of each camera (h, w, 3) uint8 RGB, without lens distortion."""
    pictures = {}
    for camera, calibration in calibrations.items():
        track = recording.images[camera]
        if track.last is not None and isinstance(track.picture, np.ndarray):
            pictures[camera] = Rectifier().rectify(track.picture, calibration)
    return pictures

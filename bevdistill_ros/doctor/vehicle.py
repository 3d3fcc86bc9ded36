"""The running vehicle: what is on the ROS graph, and the findings about it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import rclpy

from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.doctor.checks.calibration import (
    check_camera_infos,
    check_odometry,
    check_rig_mountings,
    check_tf_mountings,
    no_mountings,
    straight_pictures,
    views_of_cameras,
)
from bevdistill_ros.doctor.checks.images import Expectation, check_images
from bevdistill_ros.doctor.checks.rig import CameraView
from bevdistill_ros.doctor.config import DoctorConfig
from bevdistill_ros.doctor.finding import Finding, Problem, Verdict, fail, judge, ok, warn
from bevdistill_ros.doctor.live.graph import Graph
from bevdistill_ros.doctor.live.parameters import parameters_of_file, parameters_of_node
from bevdistill_ros.doctor.live.recording import Heard, listen
from bevdistill_ros.doctor.live.topics import Topics, find_topics, override, topics_of
from bevdistill_ros.doctor.records import Recording
from bevdistill_ros.doctor.streams import Stream
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.interface.topic_file import topic_map
from bevdistill_ros.node.records import Level
from bevdistill_ros.node.rig.calibration import Calibration, calibrations_of

_VERDICTS = {Level.OK: Verdict.OK, Level.WARN: Verdict.WARN}


class Vehicle:
    """What runs, seen from a node of our own.

    Args:
        config: Settings of the doctor.
        ros_arguments: ROS arguments for our node.
    """

    def __init__(self, config: DoctorConfig, ros_arguments: Sequence[str] = ()) -> None:
        self._config = config
        self._graph = Graph(ros_arguments)
        self._graph.discover()
        self._node = self._graph.detector()
        self._parameter_trouble: Finding | None = None
        found = self._read_parameters()
        self.has_parameters = found is not None  # from a file or the running node, not defaults
        parameters = found or DetectorParameters()
        if config.topics:
            parameters = replace(parameters, **topic_map(config.topics).node_parameters())  # type: ignore[arg-type]
        transport = config.transport
        self.parameters = parameters if transport == "node" else replace(parameters, transport=transport)
        self._cameras = self.parameters.cameras
        self._rig: VehicleRig | None = None

    def close(self) -> None:
        """Leave the graph."""
        self._graph.close()

    def expect(self, cameras: tuple[str, ...], rig: VehicleRig | None) -> None:
        """Choose the cameras to listen to, and a rig file's mountings; to be called before anything else."""
        self._cameras, self._rig = cameras, rig

    @property
    def rmw(self) -> str:
        """The middleware in use."""
        return str(rclpy.get_rmw_implementation_identifier())

    @property
    def image_bytes(self) -> float:
        """Size of an image message; 0 where none came."""
        return self._recording.image_bytes

    @cached_property
    def views(self) -> list[CameraView]:
        """The cameras of which calibration and mounting are known."""
        return self._mountings[1]

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """The last image (h, w, 3) uint8 RGB by camera, without lens distortion."""
        return straight_pictures(self._recording, self._calibrations[1])

    def check_topics(self) -> list[Finding]:
        """Findings about images, calibrations, mountings and odometry."""
        parameters = self.parameters
        expectation = Expectation(
            transport=parameters.transport,
            max_spread_ms=parameters.sync.max_spread_ms,
            runs=bool(self._node),
            names=self._topics.source,
        )
        findings = check_images(self._recording, expectation)
        if not self._recording.has_images:
            return findings  # more lines would say the same
        findings += self._calibrations[0] + self._mountings[0]
        motion = parameters.ego_motion
        if motion.source == "odometry":
            findings.append(check_odometry(self._recording.odometry, self._reference_images, motion))
        return findings

    @property
    def _reference_images(self) -> Stream:
        """Images of the camera that anchors the sets, or of the first that sends any."""
        images = self._recording.images
        order = sorted(images, key=lambda camera: camera != self.parameters.reference_camera)
        return next((images[camera].stream for camera in order if images[camera].stream.stamps_ns), Stream.empty())

    def check_node(self) -> list[Finding]:
        """Findings about the parameters, and what the running node says about itself."""
        findings = [self._parameter_trouble] if self._parameter_trouble else []
        if not self._node:
            return [*findings, ok("detector", "does not run; the checks are those of before its start")]
        findings.append(ok("detector", f"runs as {self._node}"))
        if not self._heard.diagnostics:
            remedy = "is it starting, or does it hang? ros2 lifecycle get " + self._node
            return [*findings, warn("diagnostics", "it published nothing on /diagnostics", remedy)]
        for name, status in self._heard.diagnostics.items():
            verdict = _VERDICTS.get(Level(status.level[0]), Verdict.FAIL)
            problems = [] if verdict is Verdict.OK else [Problem(verdict=verdict, message="")]
            findings.append(judge(f"says {name}", status.message, problems))
        return findings

    @cached_property
    def _topics(self) -> Topics:
        config, published = self._config, self._graph.topics()
        if config.topics:
            topics = topics_of(topic_map(config.topics), self._cameras, source=f"topic map {config.topics}")
        else:
            topics = find_topics(
                self._cameras,
                self.parameters.transport,
                node=self._node,
                subscribed=self._graph.subscribed_by(self._node) if self._node else {},
                published=published,
            )
        return override(
            topics, image=config.image_topic, camera_info=config.camera_info_topic, odometry=config.odometry_topic
        )

    @cached_property
    def _heard(self) -> Heard:
        return listen(self._graph, self._topics, self.parameters, node=self._node, seconds=self._config.seconds)

    @property
    def _recording(self) -> Recording:
        return self._heard.recording

    @cached_property
    def _calibrations(self) -> tuple[list[Finding], dict[str, Calibration]]:
        rig = self._rig
        if self.parameters.intrinsics == "rig_file" and rig is not None:
            return [ok("camera_info", "not needed: intrinsics come from the rig file")], calibrations_of(rig)
        return check_camera_infos(self._recording)

    @cached_property
    def _mountings(self) -> tuple[list[Finding], list[CameraView]]:
        calibrations, base_frame = self._calibrations[1], self.parameters.base_frame
        if self._rig is not None:
            findings, poses = check_rig_mountings(self._rig, calibrations)
        elif self._heard.transforms is None:
            findings, poses = [no_mountings()], {}
        else:
            frames = {camera: calibration.frame_id for camera, calibration in calibrations.items()}
            found = {camera: self._looked_up(camera, frame) for camera, frame in frames.items()}
            findings, poses = check_tf_mountings(found, frames, base_frame=base_frame)
        return findings, views_of_cameras(calibrations, poses)

    def _looked_up(self, camera: str, frame_id: str) -> np.ndarray | str:
        """Mounting (4, 4) [m] at the stamp of an image that tf has had time to reach, or why tf does not know it."""
        assert self._heard.transforms is not None
        stamps = self._recording.images[camera].stream.stamps_ns
        stamp = stamps[len(stamps) // 2] if stamps else self._heard.now_ns
        try:
            return self._heard.transforms.lookup(self.parameters.base_frame, frame_id, stamp)
        except ValueError as error:
            return str(error)

    def _read_parameters(self) -> DetectorParameters | None:
        try:
            if self._config.params is not None:
                return parameters_of_file(self._config.params)
            if not self._node:
                return None
            found = parameters_of_node(self._graph, self._node)
        except ValueError as error:
            self._parameter_trouble = fail("parameters", str(error), "correct it; the defaults are checked instead")
            return None
        if found is None:
            text = f"{self._node} does not answer; the defaults are checked instead"
            self._parameter_trouble = warn("parameters", text, "give its parameter file with --params")
        return found

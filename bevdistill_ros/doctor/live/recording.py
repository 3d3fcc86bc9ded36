"""Listens to the topics of the vehicle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.core.text import one_line
from bevdistill_ros.doctor.live.graph import DEPTH, Graph
from bevdistill_ros.doctor.live.topics import Topics
from bevdistill_ros.doctor.records import CalibrationRecord, ImageRecord, OdometryRecord, Recording, Topic
from bevdistill_ros.doctor.streams import Stream
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node import unpack
from bevdistill_ros.node.images import FULL_WIDTH
from bevdistill_ros.node.quality import input_quality, mismatch
from bevdistill_ros.node.tf import HAS_TF2, Transforms

MATCH_S = 2.0  # publishers find a new subscriber within this time
CLOCK_S = 3.0  # a simulated clock ticks within this time


@dataclass(kw_only=True)
class Track:
    """Messages of one topic, of which the last is kept."""

    topic: Topic
    stamps_ns: list[int] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)
    num_bytes: int = 0
    last: Any = None

    def add(self, message: Any, arrival_ns: int) -> None:
        """A message came."""
        self.stamps_ns.append(unpack.stamp_of(message))
        self.arrivals_ns.append(arrival_ns)
        self.num_bytes += len(getattr(message, "data", b""))
        self.last = message

    def restart(self) -> None:
        """Count from zero again."""
        self.stamps_ns.clear()
        self.arrivals_ns.clear()
        self.num_bytes = 0

    @property
    def stream(self) -> Stream:
        """Its stamps and arrivals."""
        size = self.num_bytes / len(self.stamps_ns) if self.stamps_ns else 0.0
        return Stream(stamps_ns=tuple(self.stamps_ns), arrivals_ns=tuple(self.arrivals_ns), bytes_mean=size)


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What was heard."""

    recording: Recording
    diagnostics: dict[str, Any]  # last status of the node, by name
    transforms: Transforms | None  # what tf knows; None without tf2
    now_ns: int  # when it ended


def listen(graph: Graph, topics: Topics, parameters: DetectorParameters, *, node: str, seconds: float) -> Heard:
    """Listen to the topics.

    Args:
        graph: Our node.
        topics: What to listen to.
        parameters: Those of the node, which decide how the messages are read.
        node: Name of the running detector; empty where none runs.
        seconds: How long.
    """
    sim_time = bool(graph.publishers("/clock"))
    if sim_time:
        graph.use_sim_time()
        graph.spin(CLOCK_S, until=lambda: graph.now_ns() > 0)
    kind = CompressedImage if parameters.transport == "compressed" else Image
    images = {camera: _track(graph, kind, topic, node) for camera, topic in topics.images.items()}
    infos = {camera: _track(graph, CameraInfo, topic, node) for camera, topic in topics.camera_infos.items()}
    odometry = _track(graph, Odometry, topics.odometry, node)
    diagnostics: dict[str, Any] = {}
    transforms = Transforms(graph.node) if HAS_TF2 else None
    if node:
        graph.subscribe(DiagnosticArray, "/diagnostics", _keep(diagnostics, node.lstrip("/")))
    tracks = [*images.values(), *infos.values(), odometry]
    awaited = [track for track in tracks if track.topic.types]
    if awaited or node:
        graph.spin(MATCH_S, until=lambda: all(track.last is not None for track in awaited))
        for track in tracks:  # what came while publishers were still finding us has gaps of its own
            track.restart()
        graph.spin(seconds)
    recording = Recording(
        images={camera: image_record(track) for camera, track in images.items()},
        calibrations={
            camera: calibration_record(track, rectified=parameters.images_rectified, image_topic=topics.images[camera])
            for camera, track in infos.items()
        },
        odometry=odometry_record(odometry, base_frame=parameters.base_frame),
        sim_time=sim_time,
        node_sim_time=bool(graph.parameters(node, ["use_sim_time"]).get("use_sim_time")) if node else None,
    )
    return Heard(recording=recording, diagnostics=diagnostics, transforms=transforms, now_ns=graph.now_ns())


def image_record(track: Track) -> ImageRecord:
    """Images, of which the last is decoded."""
    last = track.last
    if last is None:
        return ImageRecord(topic=track.topic, stream=track.stream)
    doubt = unpack.loses_colours(last)
    kind = str(last.format if isinstance(last, CompressedImage) else last.encoding)
    return ImageRecord(
        topic=track.topic,
        stream=track.stream,
        kind=kind,
        frame_id=unpack.frame_of(last),
        picture=_picture_of(last),
        doubt=doubt,
    )


def calibration_record(track: Track, *, rectified: bool, image_topic: str) -> CalibrationRecord:
    """camera_info, read as the node reads it."""
    if track.last is None:
        return CalibrationRecord(topic=track.topic, stream=track.stream)
    try:
        calibration = unpack.calibration_of(track.last, rectified=rectified, image_topic=image_topic)
    except ValueError as error:
        return CalibrationRecord(topic=track.topic, stream=track.stream, calibration=str(error))
    return CalibrationRecord(topic=track.topic, stream=track.stream, calibration=calibration)


def odometry_record(track: Track, *, base_frame: str) -> OdometryRecord:
    """Odometry, read as the node reads it."""
    last = track.last
    if last is None:
        return OdometryRecord(topic=track.topic, stream=track.stream)
    frames = f"{one_line(last.header.frame_id)} <- {one_line(last.child_frame_id or base_frame)}"
    try:
        unpack.odometry_of(last, base_frame=base_frame)
    except ValueError as error:
        return OdometryRecord(topic=track.topic, stream=track.stream, frames=frames, fault=str(error))
    return OdometryRecord(topic=track.topic, stream=track.stream, frames=frames)


def _picture_of(message: Any) -> np.ndarray | str:
    """Pixels (h, w, 3) uint8 RGB of an image, or what is wrong with it."""
    try:
        return unpack.image_of(message, nominal_width=FULL_WIDTH, width=FULL_WIDTH)
    except ValueError as error:
        return str(error)


def _track(graph: Graph, kind: Any, name: str, node: str) -> Track:
    track = Track(topic=_topic(graph, name, node))
    wanted = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
    # A subscription of another type hears nothing, and makes noise.
    if name and (not track.topic.types or wanted in track.topic.types):
        graph.subscribe(kind, name, lambda message: track.add(message, graph.now_ns()), latched=kind is CameraInfo)
    return track


def _topic(graph: Graph, name: str, node: str) -> Topic:
    """A topic with its publishers, held against the quality by which the node listens."""
    publishers = graph.publishers(name)
    quality = (graph.quality_of(name, node) if node else None) or input_quality(DEPTH)
    misfits = [(info.node_name, mismatch(info.qos_profile, quality)) for info in publishers]
    by, reason = next(((by, reason) for by, reason in misfits if reason), ("", ""))
    types = tuple(sorted({info.topic_type for info in publishers}))
    return Topic(name=name, types=types, unheard=reason, unheard_by=by)


def _keep(store: dict[str, Any], node: str) -> Callable[[Any], None]:
    """Callback that keeps the last status of each part of a node."""

    def callback(message: Any) -> None:
        for status in message.status:
            if status.name.startswith(f"{node}: "):
                store[status.name.removeprefix(f"{node}: ")] = status

    return callback

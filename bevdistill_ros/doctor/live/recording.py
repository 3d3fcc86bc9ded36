"""What was heard on the topics of the vehicle."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.doctor.live.graph import Graph
from bevdistill_ros.doctor.live.streams import Stream
from bevdistill_ros.doctor.live.topics import Topics
from bevdistill_ros.node import convert
from bevdistill_ros.node.tf import HAS_TF2, Transforms

MATCH_S = 2.0  # publishers find a new subscriber within this time
FULL_WIDTH = 65_535  # [px] no image is wider, so none is decoded at a reduced scale
CLOCK_S = 3.0  # a simulated clock ticks within this time


@dataclass(kw_only=True)
class Track:
    """Messages of one topic, of which the last is kept."""

    topic: str
    stamps_ns: list[int] = field(default_factory=list)
    arrivals_ns: list[int] = field(default_factory=list)
    num_bytes: int = 0
    last: Any = None

    def add(self, message: Any, arrival_ns: int) -> None:
        """A message came."""
        self.stamps_ns.append(convert.stamp_of(message))
        self.arrivals_ns.append(arrival_ns)
        self.num_bytes += len(getattr(message, "data", b""))
        self.last = message

    def restart(self) -> None:
        """Count anew."""
        self.stamps_ns.clear()
        self.arrivals_ns.clear()
        self.num_bytes = 0

    @cached_property
    def picture(self) -> np.ndarray | str:
        """Pixels (h, w, 3) uint8 RGB of the last image, or what is wrong with it."""
        try:
            return convert.image_of(self.last, nominal_width=FULL_WIDTH, width=FULL_WIDTH)
        except ValueError as error:
            return str(error)

    @property
    def stream(self) -> Stream:
        """Its stamps and arrivals."""
        size = self.num_bytes / len(self.stamps_ns) if self.stamps_ns else 0.0
        return Stream(stamps_ns=tuple(self.stamps_ns), arrivals_ns=tuple(self.arrivals_ns), bytes_mean=size)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Everything that was heard."""

    images: dict[str, Track]  # by camera
    camera_infos: dict[str, Track]  # by camera
    odometry: Track
    diagnostics: dict[str, Any]  # last status of the node, by name
    transforms: Transforms | None  # what tf knows; None without tf2
    sim_time: bool  # whether the clock was that of /clock
    now_ns: int  # when it ended

    @property
    def image_bytes(self) -> float:
        """Size of the largest camera's images; 0 where none came."""
        return max((track.stream.bytes_mean for track in self.images.values()), default=0.0)


def listen(graph: Graph, topics: Topics, *, transport: str, node: str, seconds: float) -> Recording:
    """Listen to the topics.

    Args:
        graph: Our node.
        topics: What to listen to.
        transport: raw or compressed.
        node: Name of the running detector; empty where none runs.
        seconds: How long.
    """
    sim_time = bool(graph.publishers("/clock"))
    if sim_time:
        graph.use_sim_time()
        graph.spin(CLOCK_S, until=lambda: graph.now_ns() > 0)
    kind = CompressedImage if transport == "compressed" else Image
    recording = Recording(
        images={camera: _track(graph, kind, topic) for camera, topic in topics.images.items()},
        camera_infos={camera: _track(graph, CameraInfo, topic) for camera, topic in topics.camera_infos.items()},
        odometry=_track(graph, Odometry, topics.odometry),
        diagnostics={},
        transforms=Transforms(graph.node) if HAS_TF2 else None,
        sim_time=sim_time,
        now_ns=0,
    )
    if node:
        graph.subscribe(DiagnosticArray, "/diagnostics", _keep(recording.diagnostics, node.lstrip("/")))
    tracks = [*recording.images.values(), *recording.camera_infos.values(), recording.odometry]
    awaited = [track for track in tracks if graph.publishers(track.topic)]
    if awaited or node:
        graph.spin(MATCH_S, until=lambda: all(track.last is not None for track in awaited))
        for track in tracks:  # what came while publishers were still finding us has gaps of its own
            track.restart()
        graph.spin(seconds)
    return Recording(**{**recording.__dict__, "now_ns": graph.now_ns()})


def _track(graph: Graph, kind: Any, topic: str) -> Track:
    track = Track(topic=topic)
    published = {info.topic_type for info in graph.publishers(topic)}
    wanted = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
    if topic and (
        not published or wanted in published
    ):  # a subscription of another type hears nothing, and makes noise
        graph.subscribe(kind, topic, lambda message: track.add(message, graph.now_ns()))
    return track


def _keep(store: dict[str, Any], node: str) -> Callable[[Any], None]:
    """Callback that keeps the last status of each part of a node."""

    def callback(message: Any) -> None:
        for status in message.status:
            if status.name.startswith(f"{node}: "):
                store[status.name.removeprefix(f"{node}: ")] = status

    return callback

"""The first pass over a bag: the stamps of its sensors, and all that is small: motion, mountings, calibrations."""

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bevdistill_ros.interface.topic_guess import CAMERA_INFO, ODOMETRY
from training.bag import messages
from training.bag.damage import Damage
from training.bag.read_bag import Bag, BagError, BagMessage, BagSample, samples_of
from training.bag.write_bag import SAMPLE_TOPIC
from training.bag_import.config import BagImportConfig
from training.bag_import.frame_tree import MAX_POSES, FrameTree, TrackBuilder, TreeBuilder
from training.bag_import.sources import Sources

GLOBAL_FRAME = ""  # of the data set; no frame of a bag has an empty name


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What the first pass has found."""

    stamps_ns: Mapping[str, np.ndarray]  # by channel, (N,) int64, rising and distinct
    sensor_frames: Mapping[str, str]  # by channel; empty where the messages name none
    infos: Mapping[str, Any]  # first usable CameraInfo by camera
    tree: FrameTree
    fixed_frame: str  # in which the vehicle moves; empty where it stands or is not known to move
    samples: tuple[BagSample, ...]  # key frames that the bag names itself
    annotation_stamps_ns: np.ndarray  # (A,) int64, rising
    skipped: Mapping[str, int]  # messages that are not used, by reason
    notes: tuple[str, ...]


def scan(config: BagImportConfig, bag: Bag, sources: Sources) -> Scan:
    """Read all of a bag but pixels and points.

    Raises:
        BagError: It is damaged, or its stamps cannot be used.
    """
    collector = _Collector(config, sources)
    damage = Damage()
    wanted = [topic for topic in collector.handlers if bag.counts.get(topic)]
    for message in bag.messages(wanted):
        with damage.counted(message.topic):
            collector.handlers[message.topic](message)
    bag.note_damage(damage)
    samples = samples_of(bag) if bag.counts.get(SAMPLE_TOPIC) else ()
    return collector.result(bag, samples)


@dataclass
class _Collector:
    """Takes messages as they come, each by the handler of its topic."""

    config: BagImportConfig
    sources: Sources
    handlers: dict[str, Callable[[BagMessage], None]] = field(default_factory=dict)
    stamps: dict[str, array] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)
    infos: dict[str, Any] = field(default_factory=dict)
    transforms: TreeBuilder = field(default_factory=TreeBuilder)
    odometry: TrackBuilder = field(default_factory=TrackBuilder)
    odometry_frames: tuple[str, str] = ("", "")  # parent, child
    annotated: array = field(default_factory=lambda: array("q"))

    def __post_init__(self) -> None:
        topics = self.sources.topics
        self.handlers = {topics.tf: self._transform, topics.tf_static: self._transform}
        self.handlers |= dict.fromkeys(self.sources.infos(), self._info)
        if topics.odometry and self.config.motion in ("auto", "odometry"):
            self.handlers[topics.odometry] = self._odometry
        if self.sources.annotations and self.sources.annotations != SAMPLE_TOPIC:
            self.handlers[self.sources.annotations] = lambda message: self.annotated.append(message.stamp_ns)
        self.handlers |= dict.fromkeys(self.sources.sensors(), self._sensor)

    def _sensor(self, message: BagMessage) -> None:
        channel = self.sources.sensors()[message.topic] if message.topic not in self.stamps else ""
        if channel:
            self.stamps[message.topic] = array("q")
            content: Any = messages.standard_types().deserialize_cdr(message.data, message.message_type)
            self.frames[channel] = content.header.frame_id.lstrip("/")
        self.stamps[message.topic].append(message.stamp_ns)

    def _info(self, message: BagMessage) -> None:
        camera = self.sources.infos()[message.topic]
        if camera not in self.infos:
            content = _decoded(message, CAMERA_INFO)
            matrix = np.asarray(content.k, dtype=np.float64)
            if not np.isfinite(matrix).all() or not (matrix.any() or np.asarray(content.p).any()):
                raise ValueError(f"the camera is not calibrated: k is {matrix.tolist()}")
            self.infos[camera] = content

    def _transform(self, message: BagMessage) -> None:
        is_static = message.topic == self.sources.topics.tf_static
        self.transforms.add(_decoded(message, messages.TRANSFORMS_TYPE), is_static=is_static)

    def _odometry(self, message: BagMessage) -> None:
        content = _decoded(message, ODOMETRY)
        place, turn = content.pose.pose.position, content.pose.pose.orientation
        values = (place.x, place.y, place.z, turn.w, turn.x, turn.y, turn.z)
        if not np.isfinite(values).all() or not any(values[3:]):
            raise ValueError(f"the pose is {values}")
        if len(self.odometry) >= MAX_POSES:
            raise BagError(f"there are more than {MAX_POSES} odometries")
        if not len(self.odometry):
            self.odometry_frames = (content.header.frame_id.lstrip("/"), content.child_frame_id.lstrip("/"))
        self.odometry.add(message.stamp_ns, values[:3], values[3:])

    def result(self, bag: Bag, samples: tuple[BagSample, ...]) -> Scan:
        """What has come together."""
        sensors = self.sources.sensors()
        raw = {sensors[topic]: np.frombuffer(stamps, dtype=np.int64) for topic, stamps in self.stamps.items()}
        stamps = {channel: np.unique(values) for channel, values in raw.items()}
        skipped = {"stamp came twice": sum(len(raw[name]) - len(stamps[name]) for name in raw)}
        for channel, values in raw.items():
            if len(values) > 1 and len(stamps[channel]) == 1:
                raise BagError(
                    f"{bag.path}: all {len(values)} stamps of {channel} are {values[0]} ns; the driver must fill "
                    "header.stamp"
                )
        tree, fixed_frame, notes = self._motion(bag)
        return Scan(
            stamps_ns=stamps,
            sensor_frames=self.frames,
            infos=self.infos,
            tree=tree,
            fixed_frame=fixed_frame,
            samples=samples,
            annotation_stamps_ns=np.unique(np.frombuffer(self.annotated, dtype=np.int64)),
            skipped={reason: count for reason, count in skipped.items() if count},
            notes=(*self.sources.notes, *notes),
        )

    def _motion(self, bag: Bag) -> tuple[FrameTree, str, list[str]]:
        """The frames with the motion that the settings ask for, and the frame in which the vehicle moves."""
        tree, base, motion = self.transforms.tree(), self.sources.base_frame, self.config.motion
        if motion == "standing":
            return tree, GLOBAL_FRAME, ["the vehicle is taken as standing"]
        if len(self.odometry):
            parent, child = self.odometry_frames[0] or "odom", self.odometry_frames[1] or base
            if tree.mounting(base, child) is None:
                raise BagError(
                    f"{bag.path}: the odometry moves '{child}', which the transforms do not connect to '{base}'; set "
                    f"base_frame, or motion: tf"
                )
            return tree.with_track(child, parent, self.odometry.track()), parent, []
        if motion in ("auto", "tf") and tree.is_followed(base):
            return tree, tree.root_of(base), [f"the motion is that of '{base}' in '{tree.root_of(base)}' on tf"]
        topic = self.sources.topics.odometry
        raise BagError(
            f"{bag.path} does not say how the vehicle moved: {f'{topic} is empty' if topic else 'it has no odometry'} "
            f"and tf does not say where '{base}' is; name odometry_topic, or import it with motion: standing"
        )


def _decoded(message: BagMessage, kind: str) -> Any:
    """A message, which must be of a type."""
    if message.message_type != kind:
        raise ValueError(f"{message.topic} holds {message.message_type}, but must hold {kind}")
    return messages.standard_types().deserialize_cdr(message.data, kind)

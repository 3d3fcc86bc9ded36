"""The node's own parts around a bag, without ROS: messages become sets, and sets what the network takes."""

import logging
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.core.text import one_line
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.rig_file import load_rig
from bevdistill_ros.interface import drops
from bevdistill_ros.interface.parameters import DetectorParameters
from bevdistill_ros.node import unpack
from bevdistill_ros.node.build import make_odometry, make_pipeline
from bevdistill_ros.node.pipeline import Pipeline, UnusableSet
from bevdistill_ros.node.records import DroppedSet, ImageSet, Prepared
from bevdistill_ros.node.rig.calibration import Calibration, calibrations_of
from bevdistill_ros.node.rig.calibration_store import CalibrationStore
from bevdistill_ros.node.rig.ego_motion import EgoMotion, NoEgoMotion
from bevdistill_ros.node.rig.mountings import RigMountings
from bevdistill_ros.node.rig.odometry import StampedPose
from bevdistill_ros.node.sets import Listeners, SetMaker
from bevdistill_ros.node.sync.filters import SimpleFilter
from training.bag import messages
from training.bag.damage import Damage
from training.bag.read_bag import Bag, BagError, BagMessage
from training.bag.rig import rig_of
from training.replay.bag_time import BagTime
from training.replay.clock import HeaderClock
from training.replay.config import Played, Setup
from training.replay.node_parameters import moves_on_tf
from training.replay.order import ODOMETRY_FROM_TF, stream

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReadySet:
    """A set and what the network takes of it."""

    images: ImageSet
    prepared: Prepared


class OfflineNode:
    """A detector that hears one bag.

    Args:
        setup: How to replay.
        parameters: Of the node.
        engine: What runs the network.
        part: The bag, and which of its images are played.
        num_buffers: Sets that are ready and not yet done with at any time.

    Raises:
        ValueError: The parameters do not fit the bag, or need ROS.
    """

    def __init__(
        self, setup: Setup, parameters: DetectorParameters, engine: Engine, part: Played, *, num_buffers: int
    ) -> None:
        if parameters.sync.policy == "approximate_time":
            raise ValueError(
                "sync.policy approximate_time is that of message_filters, which needs ROS; replay with mode live, or "
                "leave the policy at anchor"
            )
        self.faults: Counter[str] = Counter()  # what was wrong with inputs
        self.sets_sent = 0  # images of the reference camera
        self._counting = threading.Lock()
        self._setup = setup
        self._parameters = parameters
        self._bag = part.bag
        self._odometry_topic = self._find_odometry(part.bag)
        self._calibrations: list[tuple[str, Calibration | str]] = []
        self._poses: list[StampedPose] = []
        self._damage = Damage()
        self._made: list[ImageSet | DroppedSet] = []
        layout = setup.layout
        self._infos = {layout.camera_info_topic(camera): camera for camera in setup.cameras}
        self._filters: dict[str, Any] = {layout.image_topic(camera): SimpleFilter() for camera in setup.cameras}
        self._time = BagTime(self._messages(part), self._clock(part.bag), self._hear)
        self._sets = SetMaker(
            list(self._filters.values()), parameters, self._listeners(), now_ns=self._now_ns, time=self._time
        )
        self._motion = self._make_motion()
        self.pipeline = self._make_pipeline(engine, num_buffers)

    def sets(self) -> Generator[ReadySet | DroppedSet, None, None]:
        """Sets in the order in which the node would work on them; those given up where they would have been."""
        try:
            for message in self._time.images(self._sets):
                if (content := self._decoded(message)) is not None:
                    self.sets_sent += message.topic == self._setup.reference_topic
                    self._filters[message.topic].signalMessage(content)
                yield from self._take()
            self._time.run_on(self._parameters.sync.max_age_ms / 1e3, self._sets)
            yield from self._take()
        finally:
            self.pipeline.close()
            self._bag.note_damage(self._damage)

    def _take(self) -> Iterator[ReadySet | DroppedSet]:
        for entry in _drain(self._made):
            yield entry if isinstance(entry, DroppedSet) else self._prepared(entry)

    def _prepared(self, images: ImageSet) -> ReadySet | DroppedSet:
        try:
            return ReadySet(images=images, prepared=self.pipeline.prepare(images))
        except UnusableSet as error:
            return images.dropped(str(error))
        except Exception as error:  # as in the node, nothing that goes wrong with one set ends the work
            _LOG.warning("set at %d ns failed", images.stamp_ns, exc_info=True)
            return images.dropped(drops.failed(error))

    def _find_odometry(self, bag: Bag) -> str:
        """The topic of the poses; empty where the vehicle's motion is not known."""
        source = self._parameters.ego_motion.source
        if source == "none":
            return ""
        if source == "odometry" and self._setup.layout.odometry:
            return self._setup.layout.odometry
        if moves_on_tf(bag, self._setup):
            return ODOMETRY_FROM_TF
        raise BagError(f"{bag.path} has no motion of {self._setup.base_frame} for ego_motion.source {source}")

    def _make_motion(self) -> EgoMotion:
        if not self._odometry_topic:
            return NoEgoMotion()
        return make_odometry(self._parameters, lambda: _drain(self._poses), time=self._time)

    def _make_pipeline(self, engine: Engine, num_buffers: int) -> Pipeline:
        rig = self._rig()
        if self._parameters.intrinsics == "rig_file":
            calibrations = CalibrationStore(calibrations_of(rig).items, time=self._time)
        else:
            calibrations = CalibrationStore(lambda: _drain(self._calibrations), time=self._time)
        return make_pipeline(
            self._parameters,
            engine,
            calibrations=calibrations,
            mountings=RigMountings(rig),
            motion=self._motion,
            on_fault=self._fault,
            time=self._time,
            num_buffers=num_buffers,
        )

    def _rig(self) -> VehicleRig:
        """The cameras by the user's rig file, else by the transforms in the bag."""
        parameters, setup = self._parameters, self._setup
        if parameters.rig_file:
            return load_rig(parameters.rig_file).select(parameters.cameras)
        return rig_of(self._bag, setup.layout, parameters.cameras, base_frame=parameters.base_frame)

    def _listeners(self) -> Listeners:
        return Listeners(
            on_set=self._made.append,
            on_image=lambda camera: None,
            on_drop=self._made.append,
            on_clock_jump=self._clock_went_back,
            on_fault=self._fault,
        )

    def _clock_went_back(self, stamp_ns: int) -> None:
        self._motion.forget_after(stamp_ns)
        self.pipeline.request_reset()

    def _fault(self, subject: str, message: str) -> None:
        with self._counting:  # threads that decode report too
            self.faults[f"{subject}: {one_line(message)}"] += 1

    def _messages(self, part: Played) -> Iterator[BagMessage]:
        wanted = {*self._filters, *self._infos} & set(part.bag.topics) | {self._odometry_topic} - {""}
        samples = part.key_frames.samples if self._setup.config.frames == "key" else None
        return stream(
            part.bag,
            wanted,
            self._setup.layout,
            self._setup.cameras,
            samples,
            base_frame=self._setup.base_frame,
            damage=self._damage,
        )

    def _clock(self, bag: Bag) -> HeaderClock:
        topic = self._setup.reference_topic
        return HeaderClock(bag.first(topic), topic)

    def _now_ns(self) -> int:
        return self._time.clock_ns

    def _hear(self, message: BagMessage) -> bool:
        """Take what is not an image; see `BagTime`."""
        if message.topic in self._filters:
            return False
        content = self._decoded(message)
        if content is not None and message.topic == self._odometry_topic:
            self._hear_pose(content)
        elif content is not None:
            self._calibrations.append((self._infos[message.topic], self._calibration_of(message.topic, content)))
        return True

    def _hear_pose(self, content: Any) -> None:
        try:
            self._poses.append(unpack.odometry_of(content, base_frame=self._parameters.base_frame))
        except ValueError as error:
            self._fault("odometry", str(error))

    def _calibration_of(self, topic: str, content: Any) -> Calibration | str:
        try:
            return unpack.calibration_of(
                content,
                rectified=self._parameters.images_rectified,
                image_topic=self._setup.layout.image_topic(self._infos[topic]),
                max_pixels=self._parameters.max_image_pixels,
            )
        except ValueError as error:
            return str(error)

    def _decoded(self, message: BagMessage) -> Any:
        """The message by its fields; None where it is damaged."""
        with self._damage.counted(message.topic):
            return messages.standard_types().deserialize_cdr(message.data, message.message_type)
        return None


def _drain(entries: list[Any]) -> list[Any]:
    """What has come since the last call."""
    taken = entries[:]
    del entries[: len(taken)]
    return taken

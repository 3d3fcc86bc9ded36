"""Settings and result of a replay, which need no ROS, so that the command line can describe them without it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bevdistill_ros.interface.parameters import SyncParameters
from bevdistill_ros.interface.topics import TopicMap, has_tf
from training.bag.choose_topics import Wish
from training.bag.read_bag import Bag, BagSample
from training.bag.recording import Recording
from training.bag.scene import Frames
from training.bag.write_bag import BASE_FRAME, Storage


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """What to replay, and how.

    Raises:
        ValueError: Two fields do not fit each other.
    """

    bundle: Path  # model bundle that the node loads
    output: Path  # folder for recordings, the node's log and the report; must be new
    bags: tuple[Path, ...] = ()  # to play; empty: one bag for each scene is written from the data set
    root: Path | None = None  # data set in nuScenes format; for its ground truth, and to write bags from
    version: str = "v1.0-trainval"  # folder of its tables
    split: str = ""  # split to score; empty: nothing is scored
    scenes: tuple[str, ...] = ()  # scenes to write bags of; empty: those of the split
    storage: Storage = "mcap"  # of the bags written
    layout: str = "auto"  # topic map of the bags: auto, a layout's name, a template with {camera}, or a YAML file
    image_topic: str = ""  # image topics in the bags, with {camera} for the camera's name; empty: those of layout
    camera_info_topic: str = ""  # calibration topics, with {camera} for the camera's name; empty: those of layout
    odometry_topic: str = ""  # nav_msgs/Odometry; empty: that of layout
    frames: Frames = "key"  # images to play: those of key frames, as offline evaluation has them, or all
    mode: Literal["live", "offline"] = "live"  # live: through the ROS 2 node; offline: its parts without ROS, faster
    pace: Literal["realtime", "step"] = "realtime"  # live; step: time stands still while the node works on a set
    rate: float = 1.0  # live: speed; 0.5 takes twice the time
    reference_camera: str = ""  # its image anchors a set and gives its stamp; empty: CAM_FRONT, or the first camera
    max_spread_ms: float = SyncParameters.max_spread_ms  # [ms] largest difference of two image stamps in a set
    namespace: str = ""  # of the node and of all that is played, such as /replay to watch it; empty: a unique one
    device: str = "auto"  # of the node
    precision: str = "fp32"  # of the node
    parameters: dict[str, Any] = field(default_factory=dict)  # further parameters of the node, by their full names
    start_timeout_s: float = 120.0  # [s] for the node to load its bundle and subscribe
    answer_timeout_s: float = 10.0  # [s] without any answer after which a set is given up
    processes: int = 1  # offline: bags at once on this machine
    ray: str = ""  # offline: address of a Ray cluster that sees the same files; empty: processes of this machine
    overlay: bool = False  # keep the node's pictures too; parameters {score_threshold: 0.3} draws the sure boxes only
    progress: bool = True  # show a progress bar

    @property
    def wish(self) -> Wish:
        """What is said about the topics of the bags."""
        return Wish(
            layout=self.layout,
            image_topic=self.image_topic,
            camera_info_topic=self.camera_info_topic,
            odometry_topic=self.odometry_topic,
            base_frame=str(self.parameters.get("base_frame", "")),
        )

    def __post_init__(self) -> None:
        if self.mode == "offline" and (self.pace, self.rate) != ("realtime", 1.0):
            raise ValueError("pace and rate are those of a live replay; offline goes as fast as the engine")
        if self.mode == "live" and (self.processes != 1 or self.ray):
            raise ValueError(
                "a live replay takes one bag after the other: leave processes and ray, or set mode to offline"
            )
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, but is {self.processes}")
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, but is {self.rate}")
        if self.namespace and not re.fullmatch(r"/|(/[A-Za-z_][A-Za-z0-9_]*)+", self.namespace):
            raise ValueError(f"namespace must be like /replay, but is '{self.namespace}'")
        if self.split and self.root is None:
            raise ValueError(f"split '{self.split}' can only be scored with its data set; give root")
        if not self.bags and (self.root is None or not (self.split or self.scenes)):
            raise ValueError("nothing to replay: give bags, or root and version with a split or scenes")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The settings, and what follows from them."""

    config: ReplayConfig
    layout: TopicMap
    cameras: tuple[str, ...]  # of the bundle

    @property
    def reference_camera(self) -> str:
        """The camera whose image anchors a set."""
        usual = "CAM_FRONT" if "CAM_FRONT" in self.cameras else self.cameras[0]
        return self.config.reference_camera or usual

    @property
    def needs_rig_file(self) -> bool:
        """Whether the node can get the mountings only from a rig file that we write."""
        return not has_tf() and "rig_file" not in self.config.parameters

    @property
    def base_frame(self) -> str:
        """Frame of the detections."""
        return str(self.config.parameters.get("base_frame") or self.layout.base_frame or BASE_FRAME)

    @property
    def has_intrinsics(self) -> bool:
        """Whether camera matrices come from a rig file of the user, so that the bags need no camera_info."""
        return self.config.parameters.get("intrinsics") == "rig_file"

    @property
    def max_spread_ms(self) -> float:
        """How far the images of a set may be apart [ms]."""
        return float(self.config.parameters.get("sync.max_spread_ms", self.config.max_spread_ms))

    @property
    def max_age_ms(self) -> float:
        """How long the node waits for the cameras of a set [ms]."""
        return float(self.config.parameters.get("sync.max_age_ms", SyncParameters().max_age_ms))

    @property
    def reference_topic(self) -> str:
        """Topic of the bags whose images anchor the sets."""
        return self.layout.image_topic(self.reference_camera)


@dataclass(frozen=True, kw_only=True)
class KeyFrames:
    """Key frames of a bag that have ground truth."""

    samples: tuple[BagSample, ...] = ()
    poses: Mapping[int, np.ndarray] = field(default_factory=dict)  # map_from_base (4, 4) [m] by stamp [ns]


@dataclass(frozen=True, kw_only=True)
class Played:
    """A bag, and which of its images are key frames."""

    bag: Bag
    key_frames: KeyFrames


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One bag that was played, and what came back."""

    bag: Bag
    key_frames: KeyFrames
    sets_sent: int  # images of the reference camera
    sets_processed: int  # sets that were detected in
    recording: Recording
    round_trips_ms: tuple[float, ...] = ()  # live: reference image sent to detections received [ms], by arrival
    late_s: tuple[float, ...] = ()  # live: how much after its time each message went out [s]
    faults: Mapping[str, int] = field(default_factory=dict)  # offline: what was wrong with inputs, and how often
    wall_s: float = 0.0  # offline: time that it took [s]
    engine_s: float = 0.0  # offline: of it, in the engine [s]

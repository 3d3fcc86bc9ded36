"""Settings of a replay; this file needs no ROS, so that the command line can describe them without it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bevdistill_ros.core.rig import NUSCENES_CAMERAS
from training.replay.scene import Frames
from training.replay.write_bag import Storage


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
    layout: str = "bevdistill"  # names of the topics in the bags, see training.replay.layout
    cameras: tuple[str, ...] = NUSCENES_CAMERAS  # of the node
    frames: Frames = "key"  # images to play: those of key frames, as offline evaluation has them, or all
    pace: Literal["realtime", "step"] = "realtime"  # step: time stands still until the node has answered the last set
    rate: float = 1.0  # speed; 0.5 takes twice the time
    reference_camera: str = "CAM_FRONT"  # its image anchors a set and gives its stamp
    max_spread_ms: float = 100.0  # [ms] largest difference of two image stamps in a set
    device: str = "auto"  # of the node
    precision: str = "fp32"  # of the node
    parameters: dict[str, Any] = field(default_factory=dict)  # further parameters of the node, by their full names
    start_timeout_s: float = 120.0  # [s] for the node to load its bundle and subscribe
    answer_timeout_s: float = 10.0  # [s] without any answer after which a set is given up
    progress: bool = True  # show a progress bar

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise ValueError(f"rate must be above 0, but is {self.rate}")
        if self.reference_camera not in self.cameras:
            raise ValueError(
                f"reference_camera is '{self.reference_camera}', but must be one of {', '.join(self.cameras)}"
            )
        if self.split and self.root is None:
            raise ValueError(f"split '{self.split}' can only be scored with its data set; give root")
        if not self.bags and (self.root is None or not (self.split or self.scenes)):
            raise ValueError("nothing to replay: give bags, or root and version with a split or scenes")

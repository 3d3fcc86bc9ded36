"""Settings of an import."""

import hashlib
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from training.bag.choose_topics import Wish
from training.bag.scene import Frames

TRAIN_SPLIT, VAL_SPLIT, ALL_SPLIT = "bags_train", "bags_val", "bags_all"
_NOT_OF_A_BAG = ("bags", "root", "version", "val_share", "val_bags", "num_workers", "ray", "progress")


@dataclass(frozen=True, kw_only=True)
class BagImportConfig:
    """What `bevdistill bag import` makes of which bags.

    Raises:
        ValueError: A value is out of its range.
    """

    bags: tuple[Path, ...]  # bags, folders of bags, or text files with a path per line
    root: Path  # data set to write; must not exist. The same command goes on after an interruption
    version: str = "v1.0-bags"  # name of the folder of tables
    layout: str = "auto"  # topic map of the bags: auto, a layout's name, a template with {camera}, or a YAML file
    cameras: tuple[str, ...] = ()  # names that the cameras get and their topics resemble; empty: the bag's own names
    image_topic: str = ""  # image topics, with {camera} for the camera's name; empty: those of layout
    camera_info_topic: str = ""  # calibration topics, with {camera} for the camera's name; empty: those of layout
    odometry_topic: str = ""  # nav_msgs/Odometry; empty: that of layout
    lidar_topic: str = "auto"  # PointCloud2; auto: the only one there is, or the concatenated one; empty: none
    annotation_topic: str = "auto"  # boxes; auto: what is named as annotations or ground truth; empty: none
    classes: dict[str, str] = field(default_factory=dict)  # class in the bags: nuScenes category or detection class
    base_frame: str = ""  # frame of the vehicle, on the ground; empty: that of layout, or what the cameras sit on
    rig: Path | None = None  # YAML with calibrations and mountings of the cameras, for bags that have none
    motion: Literal["auto", "odometry", "tf", "standing"] = "auto"  # what says how the vehicle moved
    frames: Frames = "all"  # every image and sweep, or those of the key frames only
    key_rate_hz: float = 2.0  # [Hz] key frames, where no annotations decide
    max_offset_ms: float = 100.0  # [ms] between a key frame and the image of a camera that belongs to it
    max_pose_gap_ms: float = 500.0  # [ms] between two poses that are interpolated
    max_gap_s: float = 5.0  # [s] between two key frames; a longer pause begins a new scene
    keep_incomplete: bool = False  # keep key frames that lack the image of a camera
    max_intensity: float = 255.0  # intensity of a full reflection in the bags; becomes 255, and more is cut off
    image_format: Literal["jpg", "png"] = "jpg"  # of images that are raw in the bag; JPEG and PNG are copied
    jpeg_quality: int = 95  # 1...100, of images that are raw in the bag or have lens distortion
    val_share: float = 0.2  # share of the bags whose scenes go to the split bags_val instead of bags_train
    val_bags: tuple[str, ...] = ()  # names of these bags, in place of a share
    num_workers: int = 2  # processes, one bag each
    ray: str = ""  # address of a Ray cluster in their place, whose machines see the same files; empty: none
    progress: bool = True  # show a progress bar

    def __post_init__(self) -> None:
        for name in ("key_rate_hz", "max_gap_s", "max_intensity"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, but is {getattr(self, name)}")
        for name in ("max_offset_ms", "max_pose_gap_ms"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}")
        if not 0 <= self.val_share < 1:
            raise ValueError(f"val_share must be in [0, 1), but is {self.val_share}")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1...100, but is {self.jpeg_quality}")
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, but is {self.num_workers}")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", self.version):
            raise ValueError(f"version must be the name of a folder, such as v1.0-bags, but is '{self.version}'")

    @property
    def wish(self) -> Wish:
        """What is said about the topics of the bags."""
        return Wish(
            layout=self.layout,
            image_topic=self.image_topic,
            camera_info_topic=self.camera_info_topic,
            odometry_topic=self.odometry_topic,
            base_frame=self.base_frame,
        )

    @property
    def work(self) -> Path:
        """Folder beside the data set by which an interrupted import goes on."""
        return self.root.with_name(f".{self.root.name}.import")

    @property
    def growing(self) -> Path:
        """The data set before it is complete."""
        return self.work / "data"

    @property
    def rows(self) -> Path:
        """Folder with the rows of each bag that is imported."""
        return self.work / "rows"

    def digest(self) -> str:
        """What changes whenever a setting that decides what becomes of a bag does."""
        values = [(entry.name, getattr(self, entry.name)) for entry in fields(self) if entry.name not in _NOT_OF_A_BAG]
        files = [path for path in (self.rig, Path(self.layout)) if path is not None and path.is_file()]
        return hashlib.sha256(repr((values, [path.read_bytes() for path in files])).encode()).hexdigest()[:16]

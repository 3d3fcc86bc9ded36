"""Settings of the synthetic world."""

from dataclasses import dataclass
from pathlib import Path

from bevdistill_ros.inference.rig_file import load_rig
from training.synth.rig import NATIVE_HEIGHT, NATIVE_WIDTH, Camera, cameras_of, nuscenes_cameras

KEY_FRAME_RATE = 2  # [Hz] as in nuScenes


@dataclass(frozen=True, kw_only=True)
class SynthConfig:
    """What to write, and where.

    Raises:
        ValueError: A value is out of range, or values do not fit together.
    """

    root: Path = Path("data/synth")  # data set folder; `splits.json` lies in `root/version`
    version: str = "v1.0-synth"  # name of the table folder
    seed: int = 0
    num_train_scenes: int = 60  # split synth_train
    num_tune_scenes: int = 8  # split synth_tune, for choosing settings
    num_val_scenes: int = 12  # split synth_val
    frames_per_scene: int = 20  # key frames, 2 Hz
    rig: Path | None = None  # YAML of a vehicle's cameras, built or not; null is the six cameras of nuScenes
    rig_scale: float = 1.0  # of the image sizes of that file; less than 1 draws faster
    image_width: int = 320  # [px] of the nuScenes cameras; intrinsics follow from the 1600x900 rig
    image_height: int = 180  # [px]; less than 9/16 of the width cuts off rows at the top
    camera_rate_hz: int = 2  # [Hz] more than 2 adds images between key frames, in sweeps/
    jpeg_quality: int = 90  # 1...100
    lidar_rate_hz: int = 10  # [Hz] more than 2 adds sweeps between key frames, in sweeps/
    lidar_columns: int = 720  # azimuths of one LiDAR turn
    lidar_range: float = 80.0  # [m]
    lidar_noise: float = 0.02  # [m] standard deviation of the range
    lidar_dropout: float = 0.03  # share of lost returns at normal incidence and short range
    annotation_range: float = 60.0  # [m] from the ego origin
    num_workers: int = 2  # processes; the result does not depend on it
    overwrite: bool = False  # replace an existing root

    def __post_init__(self) -> None:
        positive = (
            "frames_per_scene",
            "rig_scale",
            "image_width",
            "image_height",
            "lidar_columns",
            "lidar_range",
            "annotation_range",
            "num_workers",
        )
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, but is {getattr(self, name)}")
        if min(self.num_train_scenes, self.num_tune_scenes, self.num_val_scenes) < 0 or self.num_scenes == 0:
            raise ValueError(
                "give at least one scene by num_train_scenes, num_tune_scenes or num_val_scenes; none may be negative"
            )
        if self.image_height > self.image_width * NATIVE_HEIGHT / NATIVE_WIDTH:
            raise ValueError(
                f"image_height {self.image_height} is more than 9/16 of image_width {self.image_width}; "
                "the rig sees no further rows"
            )
        for name in ("camera_rate_hz", "lidar_rate_hz"):
            if getattr(self, name) < KEY_FRAME_RATE or getattr(self, name) % KEY_FRAME_RATE:
                raise ValueError(f"{name} must be a multiple of {KEY_FRAME_RATE}, but is {getattr(self, name)}")
        if not 0 <= self.lidar_dropout < 1 or self.lidar_noise < 0:
            raise ValueError(
                f"lidar_dropout {self.lidar_dropout} must be in [0, 1) and lidar_noise {self.lidar_noise} not negative"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1...100, but is {self.jpeg_quality}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0...2**32 - 1, but is {self.seed}")

    def cameras(self) -> tuple[Camera, ...]:
        """The cameras of the vehicle.

        Raises:
            ValueError: The rig file can't be read, or describes cameras that can't be drawn.
        """
        if self.rig is None:
            return nuscenes_cameras(width=self.image_width, height=self.image_height)
        return cameras_of(load_rig(self.rig, what="rig"), scale=self.rig_scale)

    @property
    def num_scenes(self) -> int:
        """Scenes of all splits."""
        return self.num_train_scenes + self.num_tune_scenes + self.num_val_scenes

    @property
    def duration(self) -> float:
        """Time from the first to the last key frame of a scene [s]."""
        return (self.frames_per_scene - 1) / KEY_FRAME_RATE

    def splits(self) -> dict[str, list[int]]:
        """Scene indices of each split; train scenes come first, then tune, then val."""
        counts = {
            "synth_train": self.num_train_scenes,
            "synth_tune": self.num_tune_scenes,
            "synth_val": self.num_val_scenes,
        }
        indices = iter(range(self.num_scenes))
        return {name: [next(indices) for _ in range(count)] for name, count in counts.items()}

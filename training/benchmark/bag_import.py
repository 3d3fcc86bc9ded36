"""How fast an import is, beside plain copying of the same bytes."""

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.text import aligned
from training.bag.scene import Mounting, Scene, SensorFrame
from training.bag.write_bag import Storage, write_scene
from training.bag_import.config import BagImportConfig
from training.bag_import.run import import_bags

_START_NS, _PERIOD_NS = 1_600_000_000_000_000_000, 100_000_000
_SPEED = 5e-9  # [m/ns]


@dataclass(frozen=True, kw_only=True)
class ImportBenchConfig:
    """What `bevdistill bench import` measures."""

    frames: int = 100  # images of each of the six cameras, at 10 Hz
    image_width: int = 1600  # [px]
    image_height: int = 900  # [px]
    jpeg_quality: int = 90  # 1...100
    storage: Storage = "mcap"  # of the bag
    repeats: int = 3  # the fastest run counts, of the import and of the copying
    folder: Path | None = None  # where to write; null is the folder for temporary files

    def __post_init__(self) -> None:
        for name in ("frames", "image_width", "image_height", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, but is {getattr(self, name)}")


def run_import_bench(config: ImportBenchConfig) -> str:
    """Measure in one process; returns the table."""
    with tempfile.TemporaryDirectory(prefix="bevdistill-bench-", dir=config.folder) as folder:
        root = Path(folder)
        image = _image(config, root / "image.jpg")
        bag = write_scene(_scene(config, image), root / "bag", storage=config.storage, progress=False)
        imports = [_import(bag, root / f"set{number}") for number in range(config.repeats)]
        copies = [_copy(root / "set0", root / f"copy{number}") for number in range(config.repeats)]
    images = len(NUSCENES_CAMERAS) * config.frames
    size = images * len(image[1]) / 1e6  # [MB]
    rows = [("", "s", "images/s", "MB/s")]
    for name, seconds in (("import", min(imports)), ("copying the same files", min(copies))):
        rows.append((name, f"{seconds:.2f}", f"{images / seconds:.0f}", f"{size / seconds:.0f}"))
    each = f"{config.image_width}x{config.image_height}, {1e3 * size / images:.0f} kB"
    text = f"{images} JPEGs of {each} each, {config.storage}"
    return f"{text}\n{aligned(rows)}\nthe import takes {min(imports) / min(copies):.1f} times as long as copying"


def _image(config: ImportBenchConfig, path: Path) -> tuple[Path, bytes]:
    """A picture about as hard to compress as a street."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (config.image_height // 8 + 1, config.image_width // 8 + 1, 3), dtype=np.uint8)
    size = (config.image_width, config.image_height)
    pixels = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC).astype(np.int16)
    pixels += draw.integers(-6, 6, pixels.shape, dtype=np.int16)
    options = [cv2.IMWRITE_JPEG_QUALITY, config.jpeg_quality]
    done, content = cv2.imencode(".jpg", pixels.clip(0, 255).astype(np.uint8), options)
    assert done, "OpenCV cannot write jpg"
    path.write_bytes(content.tobytes())
    return path, content.tobytes()


def _scene(config: ImportBenchConfig, image: tuple[Path, bytes]) -> Scene:
    stamps = [_START_NS + _PERIOD_NS * number for number in range(config.frames)]
    focal = 0.8 * config.image_width
    intrinsics = np.array([[focal, 0, config.image_width / 2], [0, focal, config.image_height / 2], [0, 0, 1]])
    mounting = Mounting(
        ego_from_sensor=np.eye(4), intrinsics=intrinsics, size=(config.image_height, config.image_width)
    )
    poses = np.stack([np.eye(4)] * len(stamps))
    poses[:, 0, 3] = _SPEED * (np.array(stamps) - _START_NS)
    return Scene(
        name="bench",
        frames=tuple(
            SensorFrame(channel=camera, stamp_ns=stamp, path=image[0])
            for stamp in stamps
            for camera in NUSCENES_CAMERAS
        ),
        mountings=dict.fromkeys(NUSCENES_CAMERAS, mounting),
        key_frames=(),
        pose_stamps_ns=np.array(stamps, dtype=np.int64),
        global_from_ego=poses,
    )


def _import(bag: Path, root: Path) -> float:
    """Seconds [s] from the bag to the data set."""
    start = time.perf_counter()
    (result,) = import_bags(BagImportConfig(bags=(bag,), root=root, num_workers=1, progress=False))
    assert not result.error, result.error
    return time.perf_counter() - start


def _copy(source: Path, target: Path) -> float:
    """Seconds [s] to copy the images of a data set."""
    start = time.perf_counter()
    for folder in ("samples", "sweeps"):
        if (source / folder).is_dir():
            shutil.copytree(source / folder, target / folder)
    return time.perf_counter() - start

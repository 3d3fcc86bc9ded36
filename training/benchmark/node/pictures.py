"""Pictures of six cameras as large as real ones, so that what is done with them costs what it costs on a vehicle."""

import tempfile
from pathlib import Path

import cv2
import numpy as np

from bevdistill_ros.core.files import atomic_file
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from training.synth.config import SynthConfig
from training.synth.writer import write_world

PICTURE_SIZE = (900, 1600)  # height, width [px]
_RENDERED_SIZE = (360, 640)  # height, width [px]; scaled up, as rendering at full size takes a minute
_NOISE = 3.0  # standard deviation; with this quality it makes JPEGs of about 150 kB, as those of nuScenes
_QUALITY = 80  # of the JPEGs, 1...100


def write_pictures(folder: Path, *, seed: int = 0) -> None:
    """Write one JPEG of `PICTURE_SIZE` per camera, `<camera>.jpg`: a synthetic street, scaled up, with sensor noise."""
    noise = np.random.default_rng(seed)
    for camera, rendered in _rendered(seed).items():
        large = cv2.resize(rendered, PICTURE_SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(large + noise.normal(0.0, _NOISE, (*PICTURE_SIZE, 1)), 0, 255).astype(np.uint8)
        done, content = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        assert done, "OpenCV cannot write JPEG"
        with atomic_file(folder / f"{camera}.jpg") as partial:
            partial.write_bytes(content.tobytes())  # cv2.imwrite does not report a full disk


def _rendered(seed: int) -> dict[str, np.ndarray]:
    """A set of images of a synthetic world: (h, w, 3) uint8 BGR per camera."""
    with tempfile.TemporaryDirectory() as scratch:
        world = SynthConfig(
            root=Path(scratch) / "world",
            seed=seed,
            num_train_scenes=0,
            num_tune_scenes=0,
            num_val_scenes=1,
            frames_per_scene=1,
            image_height=_RENDERED_SIZE[0],
            image_width=_RENDERED_SIZE[1],
            lidar_columns=36,
            num_workers=1,
        )
        write_world(world, progress=False)
        samples = world.root / "samples"
        return {camera: cv2.imread(str(next((samples / camera).glob("*.jpg")))) for camera in NUSCENES_CAMERAS}

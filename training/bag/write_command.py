"""`bevdistill bag write`: scenes of a data set in nuScenes format as bags, one per scene."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nuscenes import NuScenes
from tqdm import tqdm

from training.bag.scene import Frames
from training.bag.write_bag import Storage, write_bag
from training.data.points import PointLayout
from training.data.tables import LIDAR, open_tables
from training.evaluate.metrics import split_tokens


@dataclass(frozen=True, kw_only=True)
class BagWriteConfig:
    """What `bevdistill bag write` writes."""

    root: Path  # data set in nuScenes format: the folder that holds samples/, sweeps/ and the tables
    version: str  # folder of the tables
    output: Path  # folder for the bags, one per scene and named after it; bags that are there already are kept
    split: str = ""  # whose scenes to write; empty: all
    scenes: tuple[str, ...] = ()  # scenes to write, by name; empty: those of the split
    cameras: tuple[str, ...] = ()  # cameras to write; empty: all of the scene
    frames: Frames = "all"  # every image and sweep, or those of the key frames only
    with_lidar: bool = True  # write the LiDAR as PointCloud2, where the data set has one
    lidar: str = LIDAR  # channel of the LiDAR
    points: PointLayout = field(default_factory=PointLayout)  # of the LiDAR files
    storage: Storage = "mcap"  # of the bags
    progress: bool = True  # show progress bars


def run_bag_write(config: BagWriteConfig) -> str:
    """Write the bags; returns the closing text.

    Raises:
        ValueError: The data set, the split or a scene does not exist, or a file is missing or damaged.
        OSError: A bag cannot be written.
    """
    nusc = open_tables(config.root, config.version, lidar=config.lidar if config.with_lidar else "")
    scenes = _scenes(config, nusc)
    fresh = [scene for scene in scenes if not (config.output / scene).exists()]
    for scene in tqdm(fresh, desc="write bags", unit="bag", disable=not config.progress):
        write_bag(
            nusc,
            scene,
            config.output / scene,
            cameras=config.cameras or None,
            storage=config.storage,
            frames=config.frames,
            with_lidar=config.with_lidar and _has_lidar(nusc, scene, config.lidar),
            lidar=config.lidar,
            layout=config.points,
            progress=config.progress,
        )
    kept = f"; {len(scenes) - len(fresh)} were there already and are kept" if len(fresh) < len(scenes) else ""
    return f"{len(fresh)} bags written to {config.output}{kept}"


def _scenes(config: BagWriteConfig, nusc: NuScenes) -> Sequence[str]:
    """Names of the scenes to write."""
    present = [scene["name"] for scene in nusc.scene]
    if missing := [scene for scene in config.scenes if scene not in present]:
        raise ValueError(f"{config.version} has no scene {', '.join(missing)}; it has {', '.join(present[:10])}")
    if config.scenes:
        return config.scenes
    if not config.split:
        return present
    wanted = {nusc.get("sample", token)["scene_token"] for token in split_tokens(nusc, config.split)}
    return [scene["name"] for scene in nusc.scene if scene["token"] in wanted]


def _has_lidar(nusc: NuScenes, scene: str, lidar: str) -> bool:
    """Whether a scene has sweeps of the LiDAR; tables of cameras alone are opened with a camera in its place."""
    record = next(entry for entry in nusc.scene if entry["name"] == scene)
    data = nusc.get("sample", record["first_sample_token"])["data"]
    return lidar in data and nusc.get("sample_data", data[lidar])["sensor_modality"] == "lidar"

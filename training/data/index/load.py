"""The index of a data set: read from its cache, or built from the tables."""

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

import numpy as np

from training.data.index.arrays import NuScenesIndex
from training.data.index.build import build_arrays
from training.data.index.cache import cache_path, one_at_a_time, read_arrays, write_arrays
from training.data.points import PointLayout
from training.data.tables import LIDAR, check_version, splits_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how much of it makes a sample."""

    root: Path = Path("data/nuscenes")  # folder that holds samples/, sweeps/ and the tables
    version: str = "v1.0-trainval"  # folder of the tables
    train_split: str = "train"  # official, or of splits.json beside the tables
    val_split: str = "val"
    label_weight: Literal["one", "score"] = "one"  # how much a box counts in the losses: as any other, or by its score
    num_sweeps: int = 9  # LiDAR sweeps before the key frame; 0 is the key frame only
    clip_length: int = 1  # key frames per sample; 1 is the current frame only
    lidar: str = LIDAR  # channel of the LiDAR whose key frame is the frame of reference; empty: cameras alone
    points: PointLayout = field(default_factory=PointLayout)  # of the LiDAR files
    cache_dir: Path | None = (
        None  # of the index; None: .bevdistill_cache in root, or the user's cache where root is read-only
    )

    def __post_init__(self) -> None:
        if self.num_sweeps < 0:
            raise ValueError(f"data.num_sweeps must be at least 0, but is {self.num_sweeps}")
        if self.clip_length < 1:
            raise ValueError(f"data.clip_length must be at least 1, but is {self.clip_length}")


def load_index(config: DataConfig) -> NuScenesIndex:
    """Return the index of a database, from its cache or else from its tables.

    Args:
        config: Which database.

    Raises:
        ValueError: There is no such database, or its tables are damaged.
    """
    root, version = Path(config.root), config.version
    check_version(root, version)
    splits = splits_of(root, version)
    path = cache_path(root, version, config.num_sweeps, config.cache_dir, config.lidar)

    def index_of(arrays: dict[str, np.ndarray]) -> NuScenesIndex:
        return NuScenesIndex(
            root=root, version=version, num_sweeps=config.num_sweeps, splits=splits, layout=config.points, **arrays
        )

    with one_at_a_time(path):
        arrays = read_arrays(path, _ARRAY_FIELDS)
        if arrays is not None:
            try:
                return index_of(arrays)
            except ValueError as error:
                _LOG.warning("the cached index %s is damaged (%s); it is built again", path, error)
        arrays = build_arrays(root, version, config.num_sweeps, config.lidar)
        write_arrays(path, arrays)
    return index_of(arrays)


_ARRAY_FIELDS = tuple(field.name for field in fields(NuScenesIndex) if field.type is np.ndarray)

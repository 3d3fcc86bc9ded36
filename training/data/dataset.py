"""nuScenes, or a data set in its format, as training samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevdistill_ros.core.nuscenes import NUM_CLASSES
from bevdistill_ros.core.rig import NUSCENES_CAMERAS, CameraRig
from bevdistill_ros.model.preprocess import preprocess
from bevdistill_ros.model.records import CameraInput
from training.data.images import read_image
from training.data.index.arrays import NuScenesIndex
from training.data.index.build import build_arrays
from training.data.index.cache import cache_path, one_at_a_time, read_arrays, write_arrays
from training.data.points import load_sweeps
from training.data.sample import Sample
from training.data.tables import check_version, splits_of


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the data is and how much of it makes a sample."""

    root: Path = Path("data/nuscenes")  # folder that holds samples/, sweeps/ and the tables
    version: str = "v1.0-trainval"  # folder of the tables
    train_split: str = "train"  # official, or of splits.json beside the tables
    val_split: str = "val"
    num_sweeps: int = 9  # LiDAR sweeps before the key frame; 0 is the key frame only
    clip_length: int = 1  # key frames a sample; 1 is the current frame only
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
    path = cache_path(root, version, config.num_sweeps, config.cache_dir)
    with one_at_a_time(path):
        arrays = read_arrays(path, _ARRAY_FIELDS)
        if arrays is None:
            arrays = build_arrays(root, version, config.num_sweeps)
            write_arrays(path, arrays)
    return NuScenesIndex(root=root, version=version, num_sweeps=config.num_sweeps, splits=splits, **arrays)


_ARRAY_FIELDS = tuple(field.name for field in fields(NuScenesIndex) if field.type is np.ndarray)


class NuScenesDataset(Dataset[Sample]):
    """The samples of a split.

    Args:
        index: Of the database.
        split: Name of the split.
        cameras: Cameras to read, in this order.
        height: Rows of the images that the network takes [px].
        width: Columns of the images that the network takes [px].
        num_sweeps: LiDAR sweeps before the key frame, at most those of the index.
        clip_length: Key frames in a row; those before the current one are its history, fewer at the start of a scene.
        with_images: False leaves images empty (1, N, 3, 0, 0) and cameras invalid, for a teacher that needs none.
        with_points: False leaves points empty (0, 5), for a student that needs none.
        augment: Changes each sample at last.

    Raises:
        ValueError: The split or a camera does not exist, or a number is out of its range.
    """

    def __init__(
        self,
        index: NuScenesIndex,
        split: str,
        *,
        cameras: Sequence[str] = NUSCENES_CAMERAS,
        height: int,
        width: int,
        num_sweeps: int = 9,
        clip_length: int = 1,
        with_images: bool = True,
        with_points: bool = True,
        augment: Callable[[Sample], Sample] | None = None,
    ) -> None:
        missing = [name for name in cameras if name not in index.cameras]
        if missing:
            raise ValueError(f"the data set has no camera {', '.join(missing)}; it has {', '.join(index.cameras)}")
        if not 0 <= num_sweeps <= index.num_sweeps:
            raise ValueError(f"num_sweeps must be in 0...{index.num_sweeps}, those of the index, but is {num_sweeps}")
        if clip_length < 1:
            raise ValueError(f"clip_length must be at least 1, but is {clip_length}")
        self.index, self.samples = index, index.samples_of(split)
        self.cameras, self.height, self.width = tuple(cameras), height, width
        self.num_sweeps, self.clip_length = num_sweeps, clip_length
        self.with_images, self.with_points, self.augment = with_images, with_points, augment
        # May be exchanged, to compare ways of decoding.
        self.read_image: Callable[[Path, tuple[int, int], int], np.ndarray] = read_image
        self._columns = [index.cameras.index(name) for name in cameras]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        number = int(self.samples[position])
        boxes = self.index.boxes_of(number)
        sample = Sample(
            token=self.index.token(number),
            stamp_ns=int(self.index.stamps_ns[number]),
            cameras=self._camera_input(number),
            history=tuple(self._camera_input(earlier) for earlier in self._history_of(number)),
            points=self._points_of(number),
            ego_from_lidar=torch.tensor(self.index.ego_from_sweep[self.index.sweeps_of(number).start]),
            boxes=torch.tensor(self.index.boxes[boxes]),
            labels=torch.tensor(self.index.labels[boxes]),
            num_lidar_points=torch.tensor(self.index.num_lidar_points[boxes]),
        )
        return sample if self.augment is None else self.augment(sample)

    def _history_of(self, number: int) -> list[int]:
        """List the samples before this one in its clip, oldest first."""
        history: list[int] = []
        while len(history) < self.clip_length - 1 and (number := int(self.index.previous[number])) >= 0:
            history.insert(0, number)
        return history

    def _camera_input(self, number: int) -> CameraInput:
        sizes = [(int(height), int(width)) for height, width in self.index.camera_sizes[number, self._columns]]
        images, intrinsics, valid = preprocess(
            [self._image(number, column, size) for column, size in zip(self._columns, sizes, strict=True)],
            torch.from_numpy(self.index.intrinsics[number, self._columns]),
            sizes,
            height=self.height,
            width=self.width,
        )
        rig = CameraRig(
            names=self.cameras,
            intrinsics=intrinsics,
            ego_from_camera=torch.from_numpy(self.index.ego_from_camera[number, self._columns]),
            image_size=(self.height, self.width),
        )
        return CameraInput(
            images=(images if self.with_images else images[..., :0, :0])[None],
            image_from_ego=rig.image_from_ego().float()[None],
            valid=valid[None],
            global_from_ego=torch.tensor(self.index.global_from_ego[number])[None],
        )

    def _image(self, number: int, column: int, size: tuple[int, int]) -> np.ndarray | None:
        file = self.index.camera_files[number, column].decode()
        if not self.with_images or not file:
            return None
        return self.read_image(self.index.root / file, size, self.width)

    def _points_of(self, number: int) -> Tensor:
        if not self.with_points:
            return torch.zeros(0, 5)
        sweeps = range(len(self.index.sweep_files))[self.index.sweeps_of(number)][: self.num_sweeps + 1]
        return load_sweeps(
            [self.index.root / self.index.sweep_files[sweep].decode() for sweep in sweeps],
            self.index.ego_from_sweep[sweeps.start : sweeps.stop],
            self.index.sweep_lags[sweeps.start : sweeps.stop],
        )


def class_balanced_indices(index: NuScenesIndex, split: str, *, seed: int = 0) -> list[int]:
    """Positions in a split, drawn so that each class that occurs has the same share of the draws.

    Class-balanced sampling (CBGS, arXiv 1908.09492): a sample counts once for each class in it; the draws, as many as
    these counts in all, are shared out equally. Common classes are thinned out, rare ones repeated.

    Args:
        index: Of the database.
        split: Name of the split.
        seed: Of the draws.

    Returns:
        Positions for `NuScenesDataset(index, split, ...)`, grouped by class; shuffle them.
    """
    samples = index.samples_of(split)
    members = [
        np.array([position for position, number in enumerate(samples) if label in index.labels[index.boxes_of(number)]])
        for label in range(NUM_CLASSES)
    ]
    present = [positions for positions in members if len(positions)]
    if not present:
        raise ValueError(f"split '{split}' has no box of a detection class, so its samples cannot be balanced")
    share = sum(len(positions) for positions in present) // len(present)
    generator = np.random.default_rng(seed)
    return [int(position) for positions in present for position in np.resize(generator.permutation(positions), share)]

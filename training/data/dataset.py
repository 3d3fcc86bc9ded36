"""nuScenes, or a data set in its format, as training samples."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.model.fit import ImageTarget
from bevdistill_ros.model.preprocess import preprocess
from bevdistill_ros.model.records import CameraInput
from bevdistill_ros.model.student import StudentSettings
from training.data.images import read_image
from training.data.index.arrays import NuScenesIndex
from training.data.index.load import DataConfig
from training.data.motion import motion_of
from training.data.points import check_points, load_sweeps
from training.data.sample import Sample


class NuScenesDataset(Dataset[Sample]):
    """The samples of a split.

    Args:
        index: Of the database.
        split: Name of the split.
        cameras: Cameras to read, in this order.
        target: What the network takes of an image.
        num_sweeps: LiDAR sweeps before the key frame, at most those of the index.
        clip_length: Key frames in a row; those before the current one are its history, fewer at the start of a scene.
        label_weight: How much a box counts in the losses: as any other, or by the score of the label.
        drop_frame: Take the clip from one frame more and leave out one of those before the current at random, so that
            the time between its frames varies (BEVFormer).
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
        target: ImageTarget,
        num_sweeps: int = 9,
        clip_length: int = 1,
        label_weight: Literal["one", "score"] = "one",
        drop_frame: bool = False,
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
        if with_points and not len(index.sweep_files):
            raise ValueError(f"{index.root} has no LiDAR points (data.lidar); a teacher and distillation need them")
        self.index, self.samples = index, index.samples_of(split)
        self.cameras, self.target = tuple(cameras), target
        self.num_sweeps, self.clip_length = num_sweeps, clip_length
        self.label_weight = label_weight
        self.drop_frame = drop_frame and clip_length > 1
        self.with_images, self.with_points, self.augment = with_images, with_points, augment
        # May be exchanged, to compare ways of decoding.
        self.read_image: Callable[[Path, tuple[int, int], int], np.ndarray] = read_image
        self._columns = [index.cameras.index(name) for name in cameras]
        if with_points:
            self._check_points()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Sample:
        number = int(self.samples[position])
        rows = self.index.boxes_of(number)
        boxes = torch.tensor(self.index.boxes[rows])
        boxes[torch.tensor(~self.index.velocity_known[rows]), 7:9] = torch.nan  # not taught as standing still
        scores = self.index.scores[rows]
        sample = Sample(
            token=self.index.token(number),
            stamp_ns=int(self.index.stamps_ns[number]),
            cameras=self._camera_input(number),
            history=tuple(self._camera_input(earlier) for earlier in self._history_of(number)),
            points=self._points_of(number, self.num_sweeps) if self.with_points else torch.zeros(0, 5),
            ego_from_lidar=self._ego_from_lidar(number),
            boxes=boxes,
            labels=torch.tensor(self.index.labels[rows]),
            num_lidar_points=torch.tensor(self.index.num_lidar_points[rows]),
            box_weights=torch.tensor(scores if self.label_weight == "score" else np.ones_like(scores)),
            annotated=bool(self.index.annotated[number]),
        )
        return sample if self.augment is None else self.augment(sample)

    def _history_of(self, number: int) -> list[int]:
        """List the samples before this one in its clip, oldest first."""
        history: list[int] = []
        while (
            len(history) < self.clip_length - 1 + self.drop_frame and (number := int(self.index.previous[number])) >= 0
        ):
            history.insert(0, number)
        if len(history) == self.clip_length:  # one more than wanted
            history.pop(int(torch.randint(len(history), ())))
        return history

    def rig_of(self, number: int) -> tuple[CameraRig, Tensor]:
        """Cameras of a sample of the index, for images of the target's size, and which of them (N,) have an image."""
        columns = self._columns
        _, intrinsics, _ = preprocess(
            [None] * len(columns),
            torch.from_numpy(self.index.intrinsics[number, columns]),
            torch.from_numpy(self.index.mountings_of(number, columns)),
            self.index.sizes_of(number, columns),
            target=self.target,
        )
        return self._rig(number, intrinsics), torch.from_numpy(self.index.camera_files[number, columns] != b"")

    def _rig(self, number: int, intrinsics: Tensor) -> CameraRig:
        return CameraRig(
            names=self.cameras,
            intrinsics=intrinsics,
            ego_from_camera=torch.from_numpy(self.index.ego_from_camera[number, self._columns]),
            image_size=self.target.size,
        )

    def _camera_input(self, number: int) -> CameraInput:
        sizes = self.index.sizes_of(number, self._columns)
        images, intrinsics, valid = preprocess(
            [self._image(number, column, size) for column, size in zip(self._columns, sizes, strict=True)],
            torch.from_numpy(self.index.intrinsics[number, self._columns]),
            torch.from_numpy(self.index.mountings_of(number, self._columns)),
            sizes,
            target=self.target,
        )
        rig = self._rig(number, intrinsics)
        return CameraInput(
            images=(images if self.with_images else images[..., :0, :0])[None],
            image_from_ego=rig.image_from_ego().float()[None],
            valid=valid[None],
            global_from_ego=torch.tensor(self.index.global_from_ego[number])[None],
            motion=motion_of(self.index, number),
        )

    def _image(self, number: int, column: int, size: tuple[int, int]) -> np.ndarray | None:
        file = self.index.camera_files[number, column].decode()
        if not self.with_images or not file:
            return None
        return self.read_image(self.index.root / file, size, self.target.width)

    def _ego_from_lidar(self, number: int) -> Tensor:
        """Mounting of the LiDAR (4, 4); the identity where there is none."""
        sweeps = self.index.sweeps_of(number)
        found = self.index.ego_from_sweep[sweeps.start] if sweeps.start < sweeps.stop else np.eye(4)
        return torch.tensor(found)

    def _check_points(self) -> None:
        """Refuse LiDAR files of another layout, judging by the first, the middle and the last sample's."""
        for number in self.samples[[0, len(self.samples) // 2, -1]]:
            file = self.index.sweep_files[self.index.sweeps_of(int(number)).start]
            check_points(self.index.root / file.decode(), self.index.layout)

    def key_frame_points(self, number: int) -> Tensor:
        """LiDAR points (P, 5) of a sample of the index, without those of sweeps; none where there is no LiDAR."""
        return self._points_of(number, num_sweeps=0)

    def _points_of(self, number: int, num_sweeps: int) -> Tensor:
        sweeps = range(len(self.index.sweep_files))[self.index.sweeps_of(number)][: num_sweeps + 1]
        return load_sweeps(
            [self.index.root / self.index.sweep_files[sweep].decode() for sweep in sweeps],
            self.index.ego_from_sweep[sweeps.start : sweeps.stop],
            self.index.sweep_lags[sweeps.start : sweeps.stop],
            layout=self.index.layout,
        )


def dataset_for(
    data: DataConfig,
    student: StudentSettings,
    index: NuScenesIndex,
    split: str,
    *,
    with_images: bool,
    with_points: bool,
    drop_frame: bool = False,
    augment: Callable[[Sample], Sample] | None = None,
) -> NuScenesDataset:
    """The data set of a split as a student sees it: its cameras at its image size."""
    return NuScenesDataset(
        index,
        split,
        cameras=student.cameras,
        target=student.images,
        num_sweeps=data.num_sweeps,
        clip_length=data.clip_length if student.temporal else 1,
        label_weight=data.label_weight,
        drop_frame=drop_frame,
        with_images=with_images,
        with_points=with_points,
        augment=augment,
    )

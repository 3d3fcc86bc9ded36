"""nuScenes tables as compact arrays: all that training needs to know about each sample, without the devkit.

The ego frame of a sample is the vehicle at the stamp of its LiDAR key frame (of the first camera's in a data set
without LiDAR). Whatever was measured at another stamp
is carried there by the vehicle's motion between the two stamps.

Shape legend: S samples, N cameras, W sweeps of all samples, T boxes of all samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.points import PointLayout


@dataclass(frozen=True, kw_only=True, eq=False)
class NuScenesIndex:
    """All samples of a database. Text is kept as bytes arrays, which worker processes share without copying.

    Boxes are of the ten detection classes only. A velocity that does not follow from the tables (an object seen
    once) is 0 in `boxes` and False in `velocity_known`.
    """

    root: Path
    version: str
    num_sweeps: int  # sweeps before the key frame that were looked for
    splits: Mapping[str, tuple[str, ...]]  # scene names
    scene_names: np.ndarray  # (scenes,) bytes
    camera_names: np.ndarray  # (N,) bytes
    tokens: np.ndarray  # (S,) bytes
    stamps_ns: np.ndarray  # (S,) int64 [ns], of the LiDAR
    scenes: np.ndarray  # (S,) int32 into scene_names
    previous: np.ndarray  # (S,) int32, the sample before in the scene; -1 at its start
    global_from_ego: np.ndarray  # (S, 4, 4) float64 [m]
    camera_files: np.ndarray  # (S, N) bytes, relative to root; empty for a camera that the sample lacks
    camera_stamps_ns: np.ndarray  # (S, N) int64 [ns]
    camera_sizes: np.ndarray  # (S, N, 2) int32, height and width [px]
    intrinsics: np.ndarray  # (S, N, 3, 3) float64 [px]
    ego_from_camera: np.ndarray  # (S, N, 4, 4) float64 [m], from the camera at its own stamp
    camera_mountings: np.ndarray  # (S, N) int32 into mountings; 0 for a camera that the sample lacks
    mountings: np.ndarray  # (C, 4, 4) float64 [m], ego_from_sensor as fixed to the vehicle
    sweep_offsets: np.ndarray  # (S + 1,) int64 into the sweeps; a sample's first sweep is its key frame
    sweep_files: np.ndarray  # (W,) bytes, relative to root
    sweep_lags: np.ndarray  # (W,) float64 [s] before the key frame, >= 0
    ego_from_sweep: np.ndarray  # (W, 4, 4) float64 [m], from the sensor at the sweep's own stamp
    box_offsets: np.ndarray  # (S + 1,) int64 into the boxes
    boxes: np.ndarray  # (T, 9) float32, core.boxes, ego frame
    labels: np.ndarray  # (T,) int64 into core.classes.CLASS_NAMES
    num_lidar_points: np.ndarray  # (T,) int64
    velocity_known: np.ndarray  # (T,) bool
    scores: np.ndarray  # (T,) float32 in [0, 1], of labels that a detector made; 1 for those without one
    annotated: np.ndarray  # (S,) bool, False for a sample that nobody labelled: it has no boxes, which means nothing
    ignored_boxes: np.ndarray  # (S,) int64, annotations of no detection class
    ignored_categories: np.ndarray  # (K,) bytes, of those, the most frequent first
    layout: PointLayout = field(default_factory=PointLayout)  # of the LiDAR files

    def __post_init__(self) -> None:
        samples, cameras, sweeps, boxes = map(len, (self.tokens, self.camera_names, self.sweep_files, self.boxes))
        shapes = {
            (samples,): ("stamps_ns", "scenes", "previous", "ignored_boxes", "annotated"),
            (samples + 1,): ("sweep_offsets", "box_offsets"),
            (samples, 4, 4): ("global_from_ego",),
            (samples, cameras): ("camera_files", "camera_stamps_ns", "camera_mountings"),
            (samples, cameras, 2): ("camera_sizes",),
            (samples, cameras, 3, 3): ("intrinsics",),
            (samples, cameras, 4, 4): ("ego_from_camera",),
            (sweeps,): ("sweep_lags",),
            (sweeps, 4, 4): ("ego_from_sweep",),
            (boxes, 9): ("boxes",),
            (boxes,): ("labels", "num_lidar_points", "velocity_known", "scores"),
        }
        for shape, names in shapes.items():
            for name in names:
                if getattr(self, name).shape != shape:
                    raise ValueError(f"{name} of an index has shape {getattr(self, name).shape} instead of {shape}")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras that the database has."""
        return tuple(name.decode() for name in self.camera_names)

    def samples_of(self, split: str) -> np.ndarray:
        """Return the samples (K,) int64 of a split, scene by scene in the order of time.

        Raises:
            ValueError: There is no such split, or the tables hold none of its scenes.
        """
        scenes = scenes_of(self.splits, split, self.root / self.version)
        wanted = np.array([name.decode() in scenes for name in self.scene_names], dtype=bool)
        chosen = np.flatnonzero(wanted[self.scenes])
        if not len(chosen):
            raise ValueError(f"split '{split}' names no scene that {self.root / self.version} holds")
        return chosen[np.lexsort((self.stamps_ns[chosen], self.scenes[chosen]))]

    def token(self, sample: int) -> str:
        """Token of a sample."""
        return str(self.tokens[sample].decode())

    def sizes_of(self, sample: int, columns: Sequence[int]) -> list[tuple[int, int]]:
        """Height and width [px] of the images of cameras in a sample."""
        return [(int(height), int(width)) for height, width in self.camera_sizes[sample, columns]]

    def mountings_of(self, sample: int, columns: Sequence[int]) -> np.ndarray:
        """Fixed mountings ego_from_camera (K, 4, 4) float64 [m] of cameras in a sample, without ego motion."""
        return np.asarray(self.mountings[self.camera_mountings[sample, columns]])

    def sweeps_of(self, sample: int) -> slice:
        """Where a sample's sweeps stand in the sweep arrays, the key frame first."""
        return slice(int(self.sweep_offsets[sample]), int(self.sweep_offsets[sample + 1]))

    def boxes_of(self, sample: int) -> slice:
        """Where a sample's boxes stand in the box arrays."""
        return slice(int(self.box_offsets[sample]), int(self.box_offsets[sample + 1]))

    def poses_of(self, split: str) -> dict[str, Tensor]:
        """Sample token to global_from_ego (4, 4) float64, for a split."""
        return {self.token(sample): torch.tensor(self.global_from_ego[sample]) for sample in self.samples_of(split)}


def scenes_of(splits: Mapping[str, tuple[str, ...]], split: str, tables: Path) -> tuple[str, ...]:
    """Scene names of one of the splits of these tables; a ValueError lists those that there are."""
    if split not in splits:
        found = ", ".join(splits) or "none; add splits.json beside the tables"
        raise ValueError(f"{tables} has no split '{split}'; splits found: {found}")
    return splits[split]

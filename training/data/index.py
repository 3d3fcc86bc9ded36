"""nuScenes tables as compact arrays: all that training needs to know about each sample, without the devkit.

The ego frame of a sample is the vehicle at the stamp of its LIDAR_TOP key frame. Whatever was measured at another stamp
is carried there by the vehicle's motion between the two stamps.

Shape legend: S samples, N cameras, W sweeps of all samples, T boxes of all samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from torch import Tensor
from tqdm import tqdm

from bevdistill_ros.core.boxes import BOX_SIZE, transform_boxes
from bevdistill_ros.core.classes import CLASS_NAMES
from bevdistill_ros.core.geometry import matrix_from_quaternion, transform_from, yaw_of
from bevdistill_ros.core.rig import NUSCENES_CAMERAS

LIDAR = "LIDAR_TOP"

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class NuScenesIndex:
    """All samples of a database. Text is kept as bytes arrays, which worker processes share without copying.

    Boxes are of the ten detection classes only. A velocity that the tables do not tell (an object seen once) is 0 in
    `boxes` and False in `velocity_known`, so no NaN reaches a loss.
    """

    root: Path
    version: str
    num_sweeps: int  # sweeps before the key frame that were looked for
    splits: Mapping[str, tuple[str, ...]]  # scene names
    scene_names: np.ndarray  # (scenes,) bytes
    camera_names: np.ndarray  # (N,) bytes
    tokens: np.ndarray  # (S,) bytes
    stamps_ns: np.ndarray  # (S,) int64 [ns], of LIDAR_TOP
    scenes: np.ndarray  # (S,) int32 into scene_names
    previous: np.ndarray  # (S,) int32, the sample before in the scene; -1 at its start
    global_from_ego: np.ndarray  # (S, 4, 4) float64 [m]
    camera_files: np.ndarray  # (S, N) bytes, relative to root; empty for a camera that the sample lacks
    camera_stamps_ns: np.ndarray  # (S, N) int64 [ns]
    camera_sizes: np.ndarray  # (S, N, 2) int32, height and width [px]
    intrinsics: np.ndarray  # (S, N, 3, 3) float64 [px]
    ego_from_camera: np.ndarray  # (S, N, 4, 4) float64 [m], from the camera at its own stamp
    sweep_offsets: np.ndarray  # (S + 1,) int64 into the sweeps; a sample's first sweep is its key frame
    sweep_files: np.ndarray  # (W,) bytes, relative to root
    sweep_lags: np.ndarray  # (W,) float64 [s] before the key frame, >= 0
    ego_from_sweep: np.ndarray  # (W, 4, 4) float64 [m], from the sensor at the sweep's own stamp
    box_offsets: np.ndarray  # (S + 1,) int64 into the boxes
    boxes: np.ndarray  # (T, 9) float32, core.boxes, ego frame
    labels: np.ndarray  # (T,) int64 into core.classes.CLASS_NAMES
    num_lidar_points: np.ndarray  # (T,) int64
    velocity_known: np.ndarray  # (T,) bool

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
        if split not in self.splits:
            found = ", ".join(self.splits) or "none; add splits.json beside the tables"
            raise ValueError(f"{self.root / self.version} has no split '{split}'; splits found: {found}")
        wanted = np.array([name.decode() in self.splits[split] for name in self.scene_names], dtype=bool)
        chosen = np.flatnonzero(wanted[self.scenes])
        if not len(chosen):
            raise ValueError(f"split '{split}' names no scene that {self.root / self.version} holds")
        return chosen[np.lexsort((self.stamps_ns[chosen], self.scenes[chosen]))]

    def token(self, sample: int) -> str:
        """Token of a sample."""
        return str(self.tokens[sample].decode())

    def sweeps_of(self, sample: int) -> slice:
        """Where a sample's sweeps stand in the sweep arrays, the key frame first."""
        return slice(int(self.sweep_offsets[sample]), int(self.sweep_offsets[sample + 1]))

    def boxes_of(self, sample: int) -> slice:
        """Where a sample's boxes stand in the box arrays."""
        return slice(int(self.box_offsets[sample]), int(self.box_offsets[sample + 1]))

    def poses_of(self, split: str) -> dict[str, Tensor]:
        """Sample token to global_from_ego (4, 4) float64, for a split."""
        return {self.token(sample): torch.tensor(self.global_from_ego[sample]) for sample in self.samples_of(split)}


def build_arrays(nusc: NuScenes, num_sweeps: int) -> Arrays:
    """Make the array fields of a `NuScenesIndex`, with up to `num_sweeps` sweeps before each key frame."""
    cameras = camera_channels(nusc)
    scenes = {scene["token"]: number for number, scene in enumerate(nusc.scene)}
    samples = {sample["token"]: number for number, sample in enumerate(nusc.sample)}
    parts = [
        _sample_part(nusc, sample, cameras, num_sweeps)
        for sample in tqdm(nusc.sample, desc="Indexing samples", disable=None)
    ]
    if not parts:
        raise ValueError(f"the tables in {nusc.table_root} hold no sample")
    arrays: Arrays = {
        "scene_names": _bytes_of([scene["name"] for scene in nusc.scene]),
        "camera_names": _bytes_of(cameras),
        "tokens": _bytes_of(list(samples)),
        "scenes": np.array([scenes[sample["scene_token"]] for sample in nusc.sample], dtype=np.int32),
        "previous": np.array([samples.get(sample["prev"], -1) for sample in nusc.sample], dtype=np.int32),
        "sweep_offsets": _offsets([len(part["sweep_lags"]) for part in parts]),
        "box_offsets": _offsets([len(part["labels"]) for part in parts]),
    }
    for name in _STACKED:
        arrays[name] = np.stack([part[name] for part in parts])
    for name in _CHAINED:
        arrays[name] = np.concatenate([part[name] for part in parts])
    return arrays


def camera_channels(nusc: NuScenes) -> list[str]:
    """Channels of the cameras that a database has: those of nuScenes in our order, then others by name."""
    found = {sensor["channel"] for sensor in nusc.sensor if sensor["modality"] == "camera"}
    return [name for name in NUSCENES_CAMERAS if name in found] + sorted(found - set(NUSCENES_CAMERAS))


_STACKED = (
    "stamps_ns",
    "global_from_ego",
    "camera_files",
    "camera_stamps_ns",
    "camera_sizes",
    "intrinsics",
    "ego_from_camera",
)
_CHAINED = ("sweep_files", "sweep_lags", "ego_from_sweep", "boxes", "labels", "num_lidar_points", "velocity_known")


def _sample_part(nusc: NuScenes, sample: dict[str, Any], cameras: Sequence[str], num_sweeps: int) -> Arrays:
    if LIDAR not in sample["data"]:
        raise ValueError(f"sample {sample['token']} has no {LIDAR}, whose ego pose is the frame of reference")
    lidar = nusc.get("sample_data", sample["data"][LIDAR])
    global_from_ego = _global_from_ego(nusc, lidar)
    ego_from_global = np.linalg.inv(global_from_ego)
    return {
        "stamps_ns": np.array(lidar["timestamp"] * 1000, dtype=np.int64),
        "global_from_ego": global_from_ego,
        **_camera_part(nusc, sample["data"], ego_from_global, cameras),
        **_sweep_part(nusc, lidar, ego_from_global, num_sweeps),
        **_box_part(nusc, sample["anns"], ego_from_global),
    }


def _camera_part(
    nusc: NuScenes, tokens: Mapping[str, str], ego_from_global: np.ndarray, cameras: Sequence[str]
) -> Arrays:
    files, stamps, sizes, intrinsics, poses = [], [], [], [], []
    for name in cameras:
        record = nusc.get("sample_data", tokens[name]) if name in tokens else None
        files.append(record["filename"] if record else "")
        stamps.append(record["timestamp"] * 1000 if record else 0)
        sizes.append((record["height"], record["width"]) if record else (1, 1))
        intrinsics.append(_intrinsics(nusc, record) if record else np.eye(3))
        poses.append(ego_from_global @ _global_from_sensor(nusc, record) if record else np.eye(4))
    return {
        "camera_files": _bytes_of(files),
        "camera_stamps_ns": np.array(stamps, dtype=np.int64),
        "camera_sizes": np.array(sizes, dtype=np.int32).reshape(-1, 2),
        "intrinsics": np.array(intrinsics, dtype=np.float64).reshape(-1, 3, 3),
        "ego_from_camera": np.array(poses, dtype=np.float64).reshape(-1, 4, 4),
    }


def _sweep_part(nusc: NuScenes, key_frame: dict[str, Any], ego_from_global: np.ndarray, num_sweeps: int) -> Arrays:
    records = list(_key_frame_and_before(nusc, key_frame, num_sweeps))
    return {
        "sweep_files": _bytes_of([record["filename"] for record in records]),
        "sweep_lags": np.array([(key_frame["timestamp"] - record["timestamp"]) * 1e-6 for record in records]),
        "ego_from_sweep": np.stack([ego_from_global @ _global_from_sensor(nusc, record) for record in records]),
    }


def _key_frame_and_before(nusc: NuScenes, record: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    yield record
    for _ in range(count):
        if not record["prev"]:
            return
        record = nusc.get("sample_data", record["prev"])
        yield record


def _box_part(nusc: NuScenes, tokens: Sequence[str], ego_from_global: np.ndarray) -> Arrays:
    rows, labels, points, known = [], [], [], []
    for token in tokens:
        annotation = nusc.get("sample_annotation", token)
        name = category_to_detection_name(annotation["category_name"])
        if name is None:
            continue
        velocity = nusc.box_velocity(token)[:2]
        width, length, height = annotation["size"]
        yaw = yaw_of(matrix_from_quaternion(annotation["rotation"]))
        known.append(bool(np.isfinite(velocity).all()))
        rows.append([*annotation["translation"], length, width, height, yaw, *(velocity if known[-1] else (0.0, 0.0))])
        labels.append(CLASS_NAMES.index(name))
        points.append(annotation["num_lidar_pts"])
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, BOX_SIZE)
    return {
        "boxes": transform_boxes(torch.from_numpy(ego_from_global), boxes).float().numpy(),
        "labels": np.array(labels, dtype=np.int64),
        "num_lidar_points": np.array(points, dtype=np.int64),
        "velocity_known": np.array(known, dtype=bool),
    }


def _intrinsics(nusc: NuScenes, record: dict[str, Any]) -> np.ndarray:
    calibration = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
    matrix = np.array(calibration["camera_intrinsic"], dtype=np.float64)
    if matrix.shape != (3, 3):
        raise ValueError(
            f"calibrated_sensor {calibration['token']} of {record['filename']} has no 3x3 camera_intrinsic"
        )
    return matrix


def _global_from_sensor(nusc: NuScenes, record: dict[str, Any]) -> np.ndarray:
    calibration = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
    return _global_from_ego(nusc, record) @ transform_from(calibration["rotation"], calibration["translation"])


def _global_from_ego(nusc: NuScenes, record: dict[str, Any]) -> np.ndarray:
    pose = nusc.get("ego_pose", record["ego_pose_token"])
    return transform_from(pose["rotation"], pose["translation"])


def _bytes_of(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], dtype=np.bytes_)


def _offsets(counts: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

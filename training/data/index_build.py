"""Making the index of a database from its tables: all of nuScenes in a few minutes and about one gigabyte.

The tables are read record by record, and only what is needed of a record is kept: the devkit, which keeps all of
them, takes ten times as much.

Shape legend: S samples, N cameras, D data records (LiDAR sweeps and camera key frames), A annotations of detection
classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nuscenes.eval.detection.utils import category_to_detection_name
from tqdm import tqdm

from bevdistill_ros.core.boxes import BOX_SIZE, transform_boxes
from bevdistill_ros.core.classes import CLASS_NAMES
from bevdistill_ros.core.geometry import matrix_from_quaternion, transform_from
from bevdistill_ros.core.rig import NUSCENES_CAMERAS
from training.data.table_reader import Columns, Record, Tokens, columns_of, number_of, records_of, text_of

LIDAR = "LIDAR_TOP"
MAX_VELOCITY_GAP = 1.5  # [s] between two annotations that tell a velocity, as in the devkit; twice that over three

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """What is kept of the tables, record by record in their order."""

    cameras: tuple[str, ...]  # channels
    mountings: Columns  # token, channel, ego_from_sensor (4, 4), intrinsics (3, 3), NaN where there are none
    scenes: Columns  # token, name
    samples: Columns  # token, scene, prev, timestamp [us]
    data: Columns  # token, sample, prev, file, timestamp [us], size (height, width) [px], mounting, is_key, global_from_ego
    annotations: Columns  # token, sample, prev, next, label, box (9) in the global frame without velocity, points


def build_arrays(root: Path, version: str, num_sweeps: int) -> Arrays:
    """Make the array fields of a `NuScenesIndex`, with up to `num_sweeps` sweeps before each key frame.

    Raises:
        ValueError: The tables are damaged, hold no sample, or a sample lacks what is needed.
    """
    folder = root / version
    try:
        tables = _read(folder)
        samples = Tokens(tables.samples["token"], "sample")
        in_sample = samples.rows(tables.data["sample"])
        annotated = samples.rows(tables.annotations["sample"])
        velocities = _velocities(tables, annotated)
        sweeps = _sweeps(tables, in_sample, num_sweeps)
        previous = samples.rows(tables.samples["prev"])
        scenes = Tokens(tables.scenes["token"], "scene").rows(tables.samples["scene"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"cannot read the tables in {folder} ({type(error).__name__}: {error}); unpack the metadata again"
        ) from error
    if not len(previous):
        raise ValueError(f"the tables in {folder} hold no sample")
    _check_lidar(tables, sweeps[:, 0])
    global_from_ego = tables.data["global_from_ego"][sweeps[:, 0]]
    ego_from_global = np.linalg.inv(global_from_ego)
    return {
        "scene_names": tables.scenes["name"],
        "camera_names": np.array([name.encode() for name in tables.cameras], dtype=np.bytes_),
        "tokens": tables.samples["token"],
        "scenes": scenes.astype(np.int32),
        "previous": previous.astype(np.int32),
        "stamps_ns": tables.data["timestamp"][sweeps[:, 0]] * 1000,
        "global_from_ego": global_from_ego,
        **_camera_arrays(tables, in_sample, ego_from_global),
        **_sweep_arrays(tables, sweeps, ego_from_global),
        **_box_arrays(tables, annotated, velocities, ego_from_global),
    }


def _read(folder: Path) -> _Tables:
    sensors = {record["token"]: record for record in records_of(folder / "sensor.json")}
    found = {record["channel"] for record in sensors.values() if record["modality"] == "camera"}
    channels = {token: record["channel"] for token, record in sensors.items()}
    mountings = columns_of(
        records_of(folder / "calibrated_sensor.json"),
        {
            "token": text_of("token"),
            "channel": (np.str_, lambda record: channels[record["sensor_token"]]),
            "ego_from_sensor": (np.float64, lambda record: transform_from(record["rotation"], record["translation"])),
            "intrinsics": (np.float64, _intrinsics),
        },
    )
    scenes = columns_of(records_of(folder / "scene.json"), {"token": text_of("token"), "name": text_of("name")})
    samples = columns_of(
        records_of(folder / "sample.json"),
        {
            "token": text_of("token"),
            "scene": text_of("scene_token"),
            "prev": text_of("prev"),
            "timestamp": number_of("timestamp", np.int64),
        },
    )
    # Cameras of nuScenes in our order, then others by name.
    cameras = [name for name in NUSCENES_CAMERAS if name in found] + sorted(found - set(NUSCENES_CAMERAS))
    return _Tables(
        cameras=tuple(cameras),
        mountings=mountings,
        scenes=scenes,
        samples=samples,
        data=_read_data(folder, mountings, found),
        annotations=_read_annotations(folder),
    )


def _read_data(folder: Path, mountings: Columns, cameras: set[str]) -> Columns:
    rows = {token.decode(): row for row, token in enumerate(mountings["token"])}
    channels = mountings["channel"].tolist()

    def wanted() -> Iterator[Record]:
        for record in _with_bar(folder / "sample_data.json"):
            channel = channels[rows[record["calibrated_sensor_token"]]]
            if channel == LIDAR or (channel in cameras and record["is_key_frame"]):
                yield record

    data = columns_of(
        wanted(),
        {
            "token": text_of("token"),
            "sample": text_of("sample_token"),
            "pose": text_of("ego_pose_token"),
            "prev": (np.bytes_, lambda record: record["prev"].encode() if channels_is_lidar(record) else b""),
            "file": text_of("filename"),
            "timestamp": number_of("timestamp", np.int64),
            "size": (np.int32, lambda record: (record["height"] or 1, record["width"] or 1)),
            "mounting": (np.int32, lambda record: rows[record["calibrated_sensor_token"]]),
            "is_key": number_of("is_key_frame", bool),
        },
    )
    return data

"""Making the index of a database from its tables, read record by record with only what is needed of each kept.

The devkit keeps all of every record, which is several times as much memory.

Shape legend: S samples, N cameras, D data records (all LiDAR sweeps, and camera key frames), A annotations of detection
classes, W sweeps of all samples.
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
from bevdistill_ros.core.nuscenes import CLASS_NAMES, NUSCENES_CAMERAS
from training.data.index.checks import (
    TableFault,
    box_of,
    check_annotation_links,
    check_camera_sizes,
    check_key_stamps,
    check_sample_stamps,
    check_sweep_stamps,
    intrinsics_of,
    points_of,
    pose_of,
    score_of,
    stamp_of,
)
from training.data.index.reader import Columns, Record, Tokens, columns_of, number_of, records_of, text_of
from training.data.tables import LIDAR

MAX_VELOCITY_GAP = 1.5  # [s] between two annotations that give a velocity, and twice that over three, as in the devkit

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """What is kept of the tables, in their order."""

    cameras: tuple[str, ...]  # channels: those of nuScenes in our order, then others by name
    mountings: Columns  # token, channel, ego_from_sensor (4, 4), intrinsics (3, 3), which are NaN where there are none
    scenes: Columns  # token, name
    samples: Columns  # token, scene, prev, timestamp [us], annotated
    data: Columns  # token, sample, prev, pose, file, timestamp [us], size (height, width), mounting, is_key
    global_from_ego: np.ndarray  # (D, 4, 4)
    annotations: Columns  # token, sample, prev, next, label, box (x y z l w h yaw, global frame), points, score
    ignored: Columns  # sample, category: of annotations that are of no detection class


def build_arrays(root: Path, version: str, num_sweeps: int, lidar: str = LIDAR) -> Arrays:
    """Make the array fields of a `NuScenesIndex`.

    Args:
        root: Folder that holds the folder of tables.
        version: Name of that folder.
        num_sweeps: Up to how many sweeps before each key frame are looked for.
        lidar: Channel of the LiDAR whose key frame is the frame of reference; empty for a data set of cameras alone,
            where it is that of the first camera.

    Raises:
        ValueError: The tables are damaged or hold no sample, a sample lacks its LiDAR or a calibration, or a value
            cannot be right.
    """
    folder = root / version
    try:
        arrays = _arrays_of(_read(folder, lidar), num_sweeps, lidar)
    except TableFault as error:
        raise ValueError(f"the tables in {folder} can't be right: {error}") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"cannot read the tables in {folder} ({type(error).__name__}: {error}); unpack the metadata again"
        ) from error
    return arrays


def _arrays_of(tables: _Tables, num_sweeps: int, lidar: str) -> Arrays:
    if not len(tables.samples["token"]):
        raise TableFault("they hold no sample")
    samples = Tokens(tables.samples["token"], "sample")
    data_sample, annotated = samples.rows(tables.data["sample"]), samples.rows(tables.annotations["sample"])
    previous = samples.rows(tables.samples["prev"])
    _check_stamps(tables, data_sample, previous)
    sweeps = _sweeps(tables, data_sample, num_sweeps, lidar)
    key_frames = _reference_frames(tables, data_sample, lidar)
    global_from_ego = tables.global_from_ego[key_frames]
    ego_from_global = np.linalg.inv(global_from_ego)
    return {
        "scene_names": tables.scenes["name"],
        "camera_names": np.array([name.encode() for name in tables.cameras], dtype=np.bytes_),
        "tokens": tables.samples["token"],
        "stamps_ns": tables.data["timestamp"][key_frames] * 1000,
        "scenes": Tokens(tables.scenes["token"], "scene").rows(tables.samples["scene"]).astype(np.int32),
        "previous": previous.astype(np.int32),
        "global_from_ego": global_from_ego,
        **_camera_arrays(tables, data_sample, ego_from_global),
        **_sweep_arrays(tables, sweeps, ego_from_global),
        **_box_arrays(tables, annotated, _velocities(tables, annotated), ego_from_global),
        **_ignored(tables, samples),
        "annotated": tables.samples["annotated"] & bool(len(annotated) or len(tables.ignored["sample"])),
    }


def _check_stamps(tables: _Tables, data_sample: np.ndarray, previous: np.ndarray) -> None:
    stamps, keys = tables.samples["timestamp"], np.flatnonzero(tables.data["is_key"])
    check_sample_stamps(stamps, previous, tables.samples["token"])
    check_key_stamps(tables.data["timestamp"][keys], stamps[data_sample[keys]], tables.data["file"][keys])


def _reference_frames(tables: _Tables, data_sample: np.ndarray, lidar: str) -> np.ndarray:
    """Data row (S,) of each sample's key frame whose ego pose is the frame of reference."""
    rows = np.full(len(tables.samples["token"]), -1)
    for name in [lidar] if lidar else tables.cameras:
        rows = np.where(rows < 0, _key_frames(tables, data_sample, name), rows)
    if (rows < 0).any():
        token = tables.samples["token"][np.argmin(rows)].decode()
        remedy = "; data.lidar names the LiDAR, and is empty for a data set of cameras alone" if lidar else ""
        raise TableFault(f"sample {token} has no {lidar or 'camera'}, whose ego pose is the frame of reference{remedy}")
    return rows


def _read(folder: Path, lidar: str) -> _Tables:
    sensors = {record["token"]: record for record in records_of(folder / "sensor.json")}
    found = {record["channel"] for record in sensors.values() if record["modality"] == "camera"}
    mountings = columns_of(
        records_of(folder / "calibrated_sensor.json"),
        {
            "token": text_of("token"),
            "channel": (np.str_, lambda record: sensors[record["sensor_token"]]["channel"]),
            "ego_from_sensor": (np.float64, lambda record: pose_of(record, "calibrated_sensor")),
            "intrinsics": (np.float64, intrinsics_of),
        },
    )
    samples = {
        "token": text_of("token"),
        "scene": text_of("scene_token"),
        "prev": text_of("prev"),
        "timestamp": (np.int64, lambda record: stamp_of(record, "sample")),
        "annotated": (np.bool_, lambda record: record.get("annotated", True)),
    }
    data = _read_data(folder, mountings, found, lidar)
    annotations, ignored = _read_annotations(folder)
    return _Tables(
        cameras=tuple([name for name in NUSCENES_CAMERAS if name in found] + sorted(found - set(NUSCENES_CAMERAS))),
        mountings=mountings,
        scenes=columns_of(records_of(folder / "scene.json"), {"token": text_of("token"), "name": text_of("name")}),
        samples=columns_of(records_of(folder / "sample.json"), samples),
        data=data,
        global_from_ego=_read_poses(folder, data["pose"]),
        annotations=annotations,
        ignored=ignored,
    )


def _read_data(folder: Path, mountings: Columns, cameras: set[str], lidar: str) -> Columns:
    rows = {token.decode(): row for row, token in enumerate(mountings["token"])}
    channels = mountings["channel"].tolist()

    def needed() -> Iterator[Record]:
        for record in _shown(folder / "sample_data.json"):
            channel = channels[rows[record["calibrated_sensor_token"]]]
            if (channel == lidar and lidar) or (record["is_key_frame"] and channel in cameras):
                yield record

    columns: dict[str, Any] = {
        "token": text_of("token"),
        "sample": text_of("sample_token"),
        "prev": text_of("prev"),
        "pose": text_of("ego_pose_token"),
        "file": text_of("filename"),
        "timestamp": (np.int64, lambda record: stamp_of(record, "sample_data")),
        "size": (np.int32, lambda record: (record["height"] or 0, record["width"] or 0)),
        "mounting": (np.int32, lambda record: rows[record["calibrated_sensor_token"]]),
        "is_key": number_of("is_key_frame", np.bool_),
    }
    return columns_of(needed(), columns)


def _read_poses(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Poses global_from_ego (D, 4, 4) of tokens (D,)."""
    wanted = {token.decode() for token in tokens}
    poses = columns_of(
        (record for record in _shown(folder / "ego_pose.json") if record["token"] in wanted),
        {
            "token": text_of("token"),
            "pose": (np.float64, lambda record: pose_of(record, "ego_pose")),
        },
    )
    rows = Tokens(poses["token"], "ego_pose").rows(tokens)
    return np.asarray(poses["pose"].reshape(-1, 4, 4)[rows])


def _read_annotations(folder: Path) -> tuple[Columns, Columns]:
    """Annotations of detection classes, and what is known of the others."""
    names = {record["token"]: record["name"] for record in records_of(folder / "category.json")}
    detected = {token: category_to_detection_name(name) for token, name in names.items()}
    instances = {record["token"]: record["category_token"] for record in records_of(folder / "instance.json")}
    ignored: list[tuple[bytes, bytes]] = []

    def of_detection_classes() -> Iterator[Record]:
        for record in _shown(folder / "sample_annotation.json"):
            category = instances[record["instance_token"]]
            if detected[category] is not None:
                yield record
            else:
                ignored.append((record["sample_token"].encode(), names[category].encode()))

    def label(record: Record) -> int:
        name = detected[instances[record["instance_token"]]]
        assert name is not None
        return CLASS_NAMES.index(name)

    annotations = columns_of(
        of_detection_classes(),
        {
            "token": text_of("token"),
            "sample": text_of("sample_token"),
            "prev": text_of("prev"),
            "next": text_of("next"),
            "label": (np.int64, label),
            "box": (np.float64, box_of),
            "points": (np.int64, points_of),
            "score": (np.float32, score_of),
        },
    )
    samples, categories = zip(*ignored, strict=True) if ignored else ((), ())
    return annotations, {"sample": np.array(samples, np.bytes_), "category": np.array(categories, np.bytes_)}


def _ignored(tables: _Tables, samples: Tokens) -> Arrays:
    """Number of annotations of no detection class in each sample, and their categories, the most frequent first."""
    names, counts = np.unique(tables.ignored["category"], return_counts=True)
    rows = samples.rows(tables.ignored["sample"])
    return {
        "ignored_boxes": np.bincount(rows, minlength=len(tables.samples["token"])).astype(np.int64),
        "ignored_categories": names[np.argsort(-counts, kind="stable")],
    }


def _shown(path: Path) -> Iterator[dict[str, Any]]:
    yield from tqdm(records_of(path), desc=f"Reading {path.stem}", unit=" records", disable=None)


def _key_frames(tables: _Tables, data_sample: np.ndarray, channel: str) -> np.ndarray:
    """Data row (S,) of each sample's key frame of a sensor; -1 where it has none."""
    of_channel = tables.mountings["channel"][tables.data["mounting"]] == channel
    rows = np.flatnonzero(of_channel & tables.data["is_key"])
    found = np.full(len(tables.samples["token"]), -1)
    found[data_sample[rows]] = rows
    return found


def _sweeps(tables: _Tables, data_sample: np.ndarray, num_sweeps: int, lidar: str) -> np.ndarray:
    """Data rows (S, 1 + num_sweeps) of the LiDAR key frame and of the sweeps before it; -1 where there are none."""
    if not lidar:
        return np.full((len(tables.samples["token"]), 1), -1)
    rows = np.flatnonzero(tables.mountings["channel"][tables.data["mounting"]] == lidar)
    before = np.full(len(data_sample) + 1, -1)  # one more, so that before[-1] is -1 too
    found = Tokens(tables.data["token"][rows], f"sample_data of {lidar}").rows(tables.data["prev"][rows])
    before[rows] = np.where(found >= 0, rows[found] if len(rows) else -1, -1)
    chain = [_key_frames(tables, data_sample, lidar)]
    for _ in range(num_sweeps):
        chain.append(before[chain[-1]])
    sweeps = np.stack(chain, axis=1)
    check_sweep_stamps(tables.data["timestamp"], sweeps, tables.data["file"])
    return sweeps


def _velocities(tables: _Tables, annotated: np.ndarray) -> np.ndarray:
    """Velocities (A, 2) [m/s] in the global frame, from the annotations before and after; NaN where unknown."""
    tokens = Tokens(tables.annotations["token"], "sample_annotation")
    own = np.arange(len(annotated))
    ends = [tokens.rows(tables.annotations[name]) for name in ("prev", "next")]
    stamps = tables.samples["timestamp"][annotated]
    check_annotation_links(stamps, ends[0], ends[1], tables.annotations["token"])
    first, last = (np.where(end >= 0, end, own) for end in ends)
    places = tables.annotations["box"].reshape(-1, BOX_SIZE - 2)[:, :2]
    seconds = 1e-6 * stamps
    gap = seconds[last] - seconds[first]
    longest = MAX_VELOCITY_GAP * np.where((ends[0] >= 0) & (ends[1] >= 0), 2, 1)
    known = (first != last) & (gap <= longest) & (gap > 0)
    moved = places[last] - places[first]
    return np.where(known[:, None], moved / np.where(known, gap, 1.0)[:, None], np.nan)


def _camera_arrays(tables: _Tables, data_sample: np.ndarray, ego_from_global: np.ndarray) -> Arrays:
    data, mountings = tables.data, tables.mountings
    rows = np.full((len(ego_from_global), len(tables.cameras)), -1)
    for column, name in enumerate(tables.cameras):
        rows[:, column] = _key_frames(tables, data_sample, name)
    there = rows >= 0
    mounting = data["mounting"][rows]
    intrinsics = mountings["intrinsics"][mounting]
    unknown = np.argwhere(there & np.isnan(intrinsics).any(axis=(-2, -1)))
    if len(unknown):
        sample, camera = unknown[0]
        token = mountings["token"][mounting[sample, camera]].decode()
        file = data["file"][rows[sample, camera]].decode()
        raise TableFault(f"calibrated_sensor {token} of {file} has no 3x3 camera_intrinsic")
    check_camera_sizes(data["size"][rows[there]], data["file"][rows[there]])
    poses = ego_from_global[:, None] @ (tables.global_from_ego[rows] @ mountings["ego_from_sensor"][mounting])
    return {
        "camera_files": np.where(there, data["file"][rows], b""),
        "camera_stamps_ns": np.where(there, data["timestamp"][rows] * 1000, 0),
        "camera_sizes": np.where(there[..., None], data["size"][rows], np.int32(1)),
        "intrinsics": np.where(there[..., None, None], intrinsics, np.eye(3)),
        "ego_from_camera": np.where(there[..., None, None], poses, np.eye(4)),
        "camera_mountings": np.where(there, mounting, 0).astype(np.int32),
        "mountings": mountings["ego_from_sensor"],
    }


def _sweep_arrays(tables: _Tables, sweeps: np.ndarray, ego_from_global: np.ndarray) -> Arrays:
    there = sweeps >= 0
    rows, sample = sweeps[there], np.nonzero(there)[0]
    stamps = tables.data["timestamp"]
    mounting = tables.data["mounting"][rows]
    global_from_sensor = tables.global_from_ego[rows] @ tables.mountings["ego_from_sensor"][mounting]
    return {
        "sweep_offsets": _offsets(there.sum(axis=1)),
        "sweep_files": tables.data["file"][rows],
        "sweep_lags": (stamps[sweeps[sample, 0]] - stamps[rows]) * 1e-6,
        "ego_from_sweep": ego_from_global[sample] @ global_from_sensor,
    }


def _box_arrays(tables: _Tables, annotated: np.ndarray, velocities: np.ndarray, ego_from_global: np.ndarray) -> Arrays:
    order = np.argsort(annotated, kind="stable")
    offsets = _offsets(np.bincount(annotated, minlength=len(ego_from_global)))
    known = np.isfinite(velocities).all(axis=1)
    boxes = np.concatenate([tables.annotations["box"].reshape(-1, BOX_SIZE - 2), velocities], axis=1)
    boxes[~known, 7:] = 0.0
    ordered, moved = torch.from_numpy(boxes[order]), np.zeros((len(order), BOX_SIZE), dtype=np.float32)
    for sample, transform in enumerate(ego_from_global):
        chosen = slice(int(offsets[sample]), int(offsets[sample + 1]))
        moved[chosen] = transform_boxes(torch.from_numpy(transform), ordered[chosen]).float().numpy()
    return {
        "box_offsets": offsets,
        "boxes": moved,
        "labels": tables.annotations["label"][order],
        "num_lidar_points": tables.annotations["points"][order],
        "velocity_known": known[order],
        "scores": tables.annotations["score"][order],
    }


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

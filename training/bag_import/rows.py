"""Rows of the nuScenes tables for what was imported of a bag."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import quaternion_from_matrix
from training.bag_import.annotations import Categories, FoundBox
from training.bag_import.key_frames import KeyFrame, ScenePlan
from training.bag_import.points import FULL_INTENSITY
from training.bag_import.records import SensorFile
from training.data.points import read_points
from training.data.schema import VISIBILITIES, Row, Tables, chained, stamp_columns, token_of
from training.data.tables import LIDAR

_LEVELS = {level: str(number + 1) for number, (level, _) in enumerate(VISIBILITIES)}
_UNKNOWN_VISIBILITY = str(len(VISIBILITIES))
assert FULL_INTENSITY == 255.0  # of the layout in which the points are read again


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A sensor of a vehicle."""

    channel: str
    ego_from_sensor: np.ndarray  # (4, 4) [m]
    intrinsics: np.ndarray | None  # (3, 3) [px]; None of a LiDAR

    def row(self) -> Row:
        """Of the table calibrated_sensor; the same numbers give the same token, in whatever bag."""
        values = {
            "translation": self.ego_from_sensor[:3, 3].tolist(),
            "rotation": quaternion_from_matrix(self.ego_from_sensor[:3, :3]).tolist(),
            "camera_intrinsic": [] if self.intrinsics is None else self.intrinsics.tolist(),
        }
        sensor = token_of("sensor", self.channel)
        return {"token": token_of("calibrated_sensor", self.channel, values), "sensor_token": sensor, **values}


@dataclass(frozen=True, kw_only=True)
class SceneContent:
    """A scene with all that its rows say."""

    plan: ScenePlan
    bag_name: str
    vehicle: str
    sensors: Mapping[str, Calibrated]  # by channel
    files: Sequence[SensorFile]  # of the scene, by rising stamp
    names: Mapping[tuple[str, int], str]  # file, relative to the data set, by channel and stamp
    poses: Mapping[tuple[str, int], np.ndarray]  # global_from_ego (4, 4) by channel and stamp
    boxes: Mapping[
        int, Sequence[tuple[FoundBox, np.ndarray]]
    ]  # and global_from_box (4, 4), by stamp of the key frame; those annotated


@dataclass(frozen=True)
class SceneRows:
    """Makes the rows of a scene.

    Args:
        content: The scene.
        categories: Which category a class is; counts those that are none.
        skipped: Counts boxes that cannot be used.
        sweep_paths: Where the LiDAR file of a stamp lies.
    """

    content: SceneContent
    categories: Categories
    skipped: Counter[str]
    sweep_paths: Mapping[int, Any] = field(default_factory=dict)

    def tables(self) -> Tables:
        """Rows by table: those of this scene alone, and those of its sensors."""
        content, plan = self.content, self.content.plan
        scene, log = token_of(content.bag_name, "scene", plan.name), token_of(content.bag_name, "log")
        key_frames = plan.key_frames
        samples = chained(self._sample(entry, scene) for entry in key_frames)
        annotations, instances = self._annotations(key_frames)
        return {
            "log": [_log_row(log, content, key_frames[0].stamp_ns)],
            "scene": [
                {
                    "token": scene,
                    "log_token": log,
                    "nbr_samples": len(samples),
                    "first_sample_token": samples[0]["token"],
                    "last_sample_token": samples[-1]["token"],
                    "name": plan.name,
                    "description": f"imported from {content.bag_name}",
                }
            ],
            "sample": samples,
            **self._recordings(key_frames),
            "sensor": [
                {"token": token_of("sensor", name), "channel": name, "modality": _modality(sensor)}
                for name, sensor in content.sensors.items()
            ],
            "calibrated_sensor": [sensor.row() for sensor in content.sensors.values()],
            "sample_annotation": annotations,
            "instance": instances,
            "attribute": self._attributes(),
        }

    def _sample(self, entry: KeyFrame, scene: str) -> Row:
        """Row of a key frame; one that nobody annotated says so, as it may stand beside others."""
        row = {"token": entry.token, **stamp_columns(entry.stamp_ns), "scene_token": scene}
        return row if entry.stamp_ns in self.content.boxes else {**row, "annotated": False}

    def _recordings(self, key_frames: Sequence[KeyFrame]) -> Tables:
        """Rows of images, sweeps and their poses; those between two key frames belong to the later one."""
        content = self.content
        keys = {(channel, ns): entry.token for entry in key_frames for channel, ns in entry.stamps_ns.items()}
        stamps = [entry.stamp_ns for entry in key_frames]
        calibrated = {name: sensor.row()["token"] for name, sensor in content.sensors.items()}
        channels: defaultdict[str, list[Row]] = defaultdict(list)
        poses: list[Row] = []
        for entry in content.files:
            key = (entry.channel, entry.stamp_ns)
            later = min(bisect_left(stamps, entry.stamp_ns), len(stamps) - 1)
            token = token_of(content.bag_name, content.plan.name, *key)
            poses.append({"token": token, **stamp_columns(entry.stamp_ns), **_pose_columns(content.poses[key])})
            channels[entry.channel].append(
                {
                    "token": token,
                    "sample_token": keys.get(key, key_frames[later].token),
                    "ego_pose_token": token,
                    "calibrated_sensor_token": calibrated[entry.channel],
                    **stamp_columns(entry.stamp_ns),
                    "fileformat": entry.suffix.partition(".")[0],
                    "is_key_frame": key in keys,
                    "height": entry.size[0],
                    "width": entry.size[1],
                    "filename": content.names[key],
                }
            )
        return {"sample_data": [row for rows in channels.values() for row in chained(rows)], "ego_pose": poses}

    def _annotations(self, key_frames: Sequence[KeyFrame]) -> tuple[list[Row], list[Row]]:
        """Rows of the boxes, object by object, and of the objects."""
        objects: dict[str, list[Row]] = {}
        categories: dict[str, str] = {}
        for key_frame in key_frames:
            counts = _PointCounter(self.content, key_frame, self.sweep_paths)
            for number, (box, pose) in enumerate(self.content.boxes.get(key_frame.stamp_ns, ())):
                category = self.categories.category(box.name) if box.is_usable else None
                if category is None:
                    self.skipped["boxes without a place or size"] += not box.is_usable
                    continue
                instance = self._instance(box, key_frame, number, objects, categories, category)
                row = self._annotation(box, pose, key_frame, instance, number, counts)
                objects.setdefault(instance, []).append(row)
                categories.setdefault(instance, category)
        instances = [
            {
                "token": token,
                "category_token": token_of("category", categories[token]),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
            for token, rows in objects.items()
        ]
        return [row for rows in objects.values() for row in chained(rows)], instances

    def _attributes(self) -> list[Row]:
        """Attributes of the boxes, which may be others than those of nuScenes."""
        boxes = (box for found in self.content.boxes.values() for box, _ in found)
        names = dict.fromkeys(name for box in boxes for name in box.row.get("attributes", ()))
        return [{"token": token_of("attribute", name), "name": name, "description": ""} for name in names]

    def _instance(
        self,
        box: FoundBox,
        key_frame: KeyFrame,
        number: int,
        objects: Mapping[str, Sequence[Row]],
        categories: Mapping[str, str],
        category: str,
    ) -> str:
        """Token of the object of a box; a second box of it in one key frame, or of another class, is another object."""
        own = (self.content.bag_name, self.content.plan.name, "instance")
        alone = token_of(*own, key_frame.stamp_ns, number)
        if not box.instance:
            return alone
        token = box.instance if box.row else token_of(*own, box.instance)
        is_taken = token in objects and objects[token][-1]["sample_token"] == key_frame.token
        return alone if is_taken or categories.get(token, category) != category else token

    def _annotation(
        self,
        box: FoundBox,
        pose: np.ndarray,
        key_frame: KeyFrame,
        instance: str,
        number: int,
        counts: "_PointCounter",
    ) -> Row:
        length, width, height = box.size
        row: Row = {
            "token": token_of(self.content.bag_name, self.content.plan.name, "box", key_frame.stamp_ns, number),
            "sample_token": key_frame.token,
            "instance_token": instance,
            "visibility_token": _UNKNOWN_VISIBILITY,
            "attribute_tokens": [],
            "size": [width, length, height],
            **_pose_columns(pose),
        }
        if not box.row:
            return {**row, "num_lidar_pts": counts.inside(pose, box.size), "num_radar_pts": 0}
        copied = ("token", "translation", "size", "rotation", "num_lidar_pts", "num_radar_pts")
        row |= {name: box.row[name] for name in copied}
        row["visibility_token"] = _LEVELS.get(box.row["visibility"], _UNKNOWN_VISIBILITY)
        row["attribute_tokens"] = [token_of("attribute", name) for name in box.row["attributes"]]
        return row


class _PointCounter:
    """Counts the LiDAR points of a key frame in boxes; the file is read when the first is asked for."""

    def __init__(self, content: SceneContent, key_frame: KeyFrame, paths: Mapping[int, Any]) -> None:
        self._content, self._stamp, self._paths = content, key_frame.stamps_ns.get(LIDAR), paths
        self._points: np.ndarray | None = None

    def inside(self, pose: np.ndarray, size: tuple[float, float, float]) -> int:
        """Points in a box; 1 without a LiDAR, as the official score leaves out boxes without points."""
        if self._stamp is None or self._stamp not in self._paths:
            return 1
        if self._points is None:
            raw = read_points(self._paths[self._stamp])[:, :3].astype(np.float64)
            global_from_ego = self._content.poses[(LIDAR, self._stamp)]
            global_from_lidar = global_from_ego @ self._content.sensors[LIDAR].ego_from_sensor
            self._points = raw @ global_from_lidar[:3, :3].T + global_from_lidar[:3, 3]
        offset = self._points - pose[:3, 3]
        half = np.array(size) / 2
        near = offset[(np.abs(offset) <= np.linalg.norm(half)).all(axis=1)]
        return int((np.abs(near @ pose[:3, :3]) <= half).all(axis=1).sum())


def _modality(sensor: Calibrated) -> str:
    return "lidar" if sensor.intrinsics is None else "camera"


def _pose_columns(pose: np.ndarray) -> Row:
    return {"rotation": quaternion_from_matrix(pose[:3, :3]).tolist(), "translation": pose[:3, 3].tolist()}


def _log_row(token: str, content: SceneContent, stamp_ns: int) -> Row:
    captured = str(np.datetime64(stamp_ns, "ns").astype("datetime64[D]"))
    return {
        "token": token,
        "logfile": content.bag_name,
        "vehicle": content.vehicle,
        "date_captured": captured,
        "location": "unknown",
    }

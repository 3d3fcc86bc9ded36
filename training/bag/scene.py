"""One scene of a data set in nuScenes format, as a recording: frames, calibration and ego poses by time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nuscenes import NuScenes

from bevdistill_ros.core.geometry import quaternion_from_matrix, transform_from
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.text import quote
from training.data.schema import stamp_ns_of
from training.data.tables import LIDAR

Frames = Literal["all", "key"]

_COPIED = ("token", "instance_token", "translation", "size", "rotation", "num_lidar_pts", "num_radar_pts")
_VELOCITY_WINDOW_NS = 50_000_000  # to each side; poses of neighbouring sensors are too close for a difference


@dataclass(frozen=True, kw_only=True)
class SensorFrame:
    """One image or sweep."""

    channel: str
    stamp_ns: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Mounting:
    """Where a sensor sits, and how a camera sees."""

    ego_from_sensor: np.ndarray  # (4, 4) [m]
    intrinsics: np.ndarray | None  # (3, 3) [px], of a camera
    size: tuple[int, int]  # height, width [px]; 0, 0 of a LiDAR


@dataclass(frozen=True, kw_only=True)
class Annotation:
    """One ground truth box."""

    category: str
    instance: int  # the same for one object over the scene
    global_from_box: np.ndarray  # (4, 4) [m]
    size: tuple[float, float, float]  # length, width, height [m]
    row: Mapping[str, Any]  # what the tables say, with names in the place of tokens of categories and attributes


@dataclass(frozen=True, kw_only=True)
class KeyFrame:
    """One nuScenes sample."""

    token: str
    stamp_ns: int
    channel_stamps_ns: Mapping[str, int]  # of the key frame of each sensor
    annotations: tuple[Annotation, ...]
    is_annotated: bool = True  # False: that there are none says nothing


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What was recorded in a scene, everything by rising stamp."""

    name: str
    frames: tuple[SensorFrame, ...]
    mountings: Mapping[str, Mounting]
    key_frames: tuple[KeyFrame, ...]
    pose_stamps_ns: np.ndarray  # (P,) int64, distinct
    global_from_ego: np.ndarray  # (P, 4, 4) float64 [m]

    def velocity(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Linear [m/s] and angular [rad/s] velocity (3,), (3,) at a pose, in the ego frame, over 0.1 s."""
        stamp = self.pose_stamps_ns[index]
        before = int(np.searchsorted(self.pose_stamps_ns, stamp - _VELOCITY_WINDOW_NS))
        after = int(np.searchsorted(self.pose_stamps_ns, stamp + _VELOCITY_WINDOW_NS, side="right")) - 1
        if before == after:  # nothing else within the window: the neighbours, however far
            before, after = max(index - 1, 0), min(index + 1, len(self.pose_stamps_ns) - 1)
        seconds = (self.pose_stamps_ns[after] - self.pose_stamps_ns[before]) / 1e9
        if seconds == 0:
            return np.zeros(3), np.zeros(3)
        first, last = self.global_from_ego[before], self.global_from_ego[after]
        turn = quaternion_from_matrix(first[:3, :3].T @ last[:3, :3])
        half_sine = float(np.linalg.norm(turn[1:]))
        angle = 2 * np.arctan2(half_sine, turn[0])
        angular = turn[1:] / half_sine * angle / seconds if half_sine > 1e-12 else np.zeros(3)
        ego_from_global = self.global_from_ego[index][:3, :3].T
        return ego_from_global @ (last[:3, 3] - first[:3, 3]) / seconds, angular


def read_scene(
    nusc: NuScenes, name: str, *, cameras: Sequence[str] | None, frames: Frames, lidar: str = LIDAR
) -> Scene:
    """Collect a scene from the tables.

    Args:
        nusc: The data set.
        name: Name of the scene.
        cameras: Channels to take, besides the LiDAR; None: all cameras of the scene.
        frames: Every image there is, or those of the key frames only.
        lidar: Channel of the LiDAR.

    Raises:
        ValueError: There is no such scene or camera, a file is missing, or a calibration changes within the scene.
    """
    scene = _scene_record(nusc, name)
    first = nusc.get("sample", scene["first_sample_token"])
    known = _cameras_of(nusc, first)
    wanted = known if cameras is None else cameras
    missing = [camera for camera in wanted if camera not in known]
    if missing or not wanted:
        listed = ", ".join(missing) or "(none asked for)"
        raise ValueError(f"scene '{name}' has no camera {listed}; it has {', '.join(known)}")
    channels = (*wanted, *([lidar] if lidar in first["data"] else []))
    records = {channel: _chain(nusc, first["data"][channel]) for channel in channels}
    stamps, poses = _poses(nusc, records)
    return Scene(
        name=name,
        frames=_frames(nusc, records, frames),
        mountings={channel: _mounting(nusc, name, channel, chain) for channel, chain in records.items()},
        key_frames=_key_frames(nusc, scene, tuple(records)),
        pose_stamps_ns=stamps,
        global_from_ego=poses,
    )


def _scene_record(nusc: NuScenes, name: str) -> dict[str, Any]:
    for scene in nusc.scene:
        if scene["name"] == name:
            return dict(scene)
    known = ", ".join(scene["name"] for scene in nusc.scene[:10])
    raise ValueError(f"no scene '{name}' in {nusc.version}; it has {known}{', ...' if len(nusc.scene) > 10 else ''}")


def _cameras_of(nusc: NuScenes, sample: Mapping[str, Any]) -> list[str]:
    """Cameras of a sample: those of nuScenes in our order, then others by name."""
    records = {channel: nusc.get("sample_data", token) for channel, token in sample["data"].items()}
    found = {channel for channel, record in records.items() if record["sensor_modality"] == "camera"}
    return [name for name in NUSCENES_CAMERAS if name in found] + sorted(found - set(NUSCENES_CAMERAS))


def _chain(nusc: NuScenes, token: str) -> list[dict[str, Any]]:
    """All records of a sensor's scene, oldest first, from any one of them."""
    oldest = list(_linked(nusc, "sample_data", token, "prev"))[-1]
    return list(_linked(nusc, "sample_data", oldest["token"], "next"))


def _linked(nusc: NuScenes, table: str, token: str, link: Literal["prev", "next"]) -> Iterator[dict[str, Any]]:
    """A record and those that its links lead to, one after another; a ValueError names a record that comes twice."""
    seen: set[str] = set()
    while token:
        if token in seen:
            raise ValueError(
                f"{nusc.table_root}/{table}.json: '{link}' of its records leads back to {quote(token)}; it must lead "
                "through a scene without a circle"
            )
        seen.add(token)
        record = nusc.get(table, token)
        yield record
        token = record[link]


def _frames(nusc: NuScenes, records: Mapping[str, list[dict[str, Any]]], frames: Frames) -> tuple[SensorFrame, ...]:
    found = []
    for channel, chain in records.items():
        for record in chain:
            if frames == "key" and not record["is_key_frame"]:
                continue
            path = Path(nusc.dataroot) / record["filename"]
            if not path.is_file():
                hint = "" if record["is_key_frame"] else "; without sweeps write key frames only (frames 'key')"
                raise ValueError(f"{path} is missing{hint}")
            found.append(SensorFrame(channel=channel, stamp_ns=stamp_ns_of(record), path=path))
    return tuple(sorted(found, key=lambda frame: frame.stamp_ns))


def _mounting(nusc: NuScenes, scene: str, channel: str, chain: Sequence[Mapping[str, Any]]) -> Mounting:
    mountings = []
    for token in dict.fromkeys(record["calibrated_sensor_token"] for record in chain):
        record = nusc.get("calibrated_sensor", token)
        intrinsics = np.array(record["camera_intrinsic"], dtype=np.float64)
        mountings.append((transform_from(record["rotation"], record["translation"]), intrinsics))
    first, *others = mountings
    for other in others:
        if not (np.allclose(first[0], other[0]) and np.array_equal(first[1], other[1])):
            raise ValueError(
                f"{channel} has several calibrations in scene '{scene}'; a bag holds one fixed calibration"
            )
    sizes = {(int(record["height"]), int(record["width"])) for record in chain}
    if len(sizes) > 1:
        raise ValueError(f"{channel} has images of several sizes in scene '{scene}': {sorted(sizes)}")
    return Mounting(ego_from_sensor=first[0], intrinsics=first[1] if first[1].size else None, size=sizes.pop())


def _poses(nusc: NuScenes, records: Mapping[str, list[dict[str, Any]]]) -> tuple[np.ndarray, np.ndarray]:
    by_stamp: dict[int, np.ndarray] = {}
    for chain in records.values():
        for record in chain:
            pose = nusc.get("ego_pose", record["ego_pose_token"])
            by_stamp.setdefault(stamp_ns_of(record), transform_from(pose["rotation"], pose["translation"]))
    stamps = sorted(by_stamp)
    return np.array(stamps, dtype=np.int64), np.stack([by_stamp[stamp] for stamp in stamps])


def _key_frames(nusc: NuScenes, scene: Mapping[str, Any], channels: Sequence[str]) -> tuple[KeyFrame, ...]:
    instances: dict[str, int] = {}
    key_frames = []
    for sample in _linked(nusc, "sample", scene["first_sample_token"], "next"):
        stamps = {
            channel: stamp_ns_of(nusc.get("sample_data", sample["data"][channel]))
            for channel in channels
            if channel in sample["data"]
        }
        annotations = tuple(_annotation(nusc, annotation, instances) for annotation in sample["anns"])
        key_frames.append(
            KeyFrame(
                token=sample["token"],
                stamp_ns=stamp_ns_of(sample),
                channel_stamps_ns=stamps,
                annotations=annotations,
                is_annotated=sample.get("annotated", True),
            )
        )
    return tuple(key_frames)


def _annotation(nusc: NuScenes, token: str, instances: dict[str, int]) -> Annotation:
    record = nusc.get("sample_annotation", token)
    width, length, height = record["size"]
    return Annotation(
        category=record["category_name"],
        instance=instances.setdefault(record["instance_token"], len(instances)),
        global_from_box=transform_from(record["rotation"], record["translation"]),
        size=(length, width, height),
        row={
            **{name: record[name] for name in _COPIED},
            "category": record["category_name"],
            "attributes": [nusc.get("attribute", entry)["name"] for entry in record["attribute_tokens"]],
            "visibility": nusc.get("visibility", record["visibility_token"])["level"],
        },
    )

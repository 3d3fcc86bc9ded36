"""Bags of ours rewritten as recorders and other tools would have written them."""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from training.bag import messages
from training.bag.scene import KeyFrame, Mounting, Scene, SensorFrame

START_NS = 1_600_000_000_000_000_123
OURS_ALONE = ("/nuscenes/sample", "/annotations", "/markers/annotations")


def rewritten(
    source: Path,
    target: Path,
    *,
    late_ms: Mapping[str, tuple[float, float]] | tuple[float, float] = (0.0, 0.0),
    offset_ns: int = 0,
    rename: Mapping[str, str] = {},
    drop: Collection[str] = OURS_ALONE,
    change: Callable[[str, Any], Any] = lambda topic, message: message,
    compressed: bool = False,
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Path:
    """Copy a bag with the time of receipt that a recorder would have written.

    Args:
        source: The bag.
        target: The new one.
        late_ms: How much later than its stamp each message was received [ms], at random; by topic, or for all.
        offset_ns: What the recorder's clock is ahead of that of the headers [ns].
        rename: New names of topics.
        drop: Topics to leave out.
        change: What to make of each decoded message of a topic; None leaves it out.
        compressed: Whether each message is compressed (zstd).
        storage: Kind of the storage file.
    """
    draw, store = random.Random(0), messages.standard_types()
    with Reader(source) as reader:
        entries = []
        for connection, stamp_ns, data in reader.messages():
            if connection.topic in drop:
                continue
            low, high = late_ms.get(connection.topic, (0.0, 0.0)) if isinstance(late_ms, Mapping) else late_ms
            content = change(connection.topic, store.deserialize_cdr(data, connection.msgtype))
            if content is not None:
                received_ns = stamp_ns + offset_ns + round(draw.uniform(low, high) * 1e6)
                entries.append((received_ns, connection.topic, content.__msgtype__, content))
        kinds = {entry[1]: entry[2] for entry in entries}
    writer = Writer(target, version=8, storage_plugin=storage)
    if compressed:
        writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        topics = sorted(kinds)
        draw.shuffle(topics)
        made = {
            topic: writer.add_connection(rename.get(topic, topic), kinds[topic], typestore=store) for topic in topics
        }
        for received_ns, topic, kind, content in sorted(entries, key=lambda entry: entry[0]):
            writer.write(made[topic], received_ns, messages.serialize(content, kind))
    return target


def with_bytes(
    source: Path, target: Path, change: Callable[[str, bytes], bytes | None], *, again_ns: Sequence[int] = (0,)
) -> Path:
    """Copy a bag with other bytes.

    Args:
        source: The bag.
        target: The new one.
        change: What to make of the bytes of each message of a topic; None leaves it out.
        again_ns: How much later everything is received [ns], each time that it is there.
    """
    with Reader(source) as reader, Writer(target, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        made = {
            entry.topic: writer.add_connection(entry.topic, entry.msgtype, typestore=messages.standard_types())
            for entry in reader.connections
        }
        for later_ns in again_ns:
            for connection, received_ns, data in reader.messages():
                changed = change(connection.topic, bytes(data))
                if changed is not None:
                    writer.write(made[connection.topic], received_ns + later_ns, changed)
    return target


def looped(source: Path, target: Path, *, by_ns: int) -> Path:
    """Copy a bag so that it is there twice with the same stamps, the second time received `by_ns` later [ns]."""
    return with_bytes(source, target, lambda topic, data: data, again_ns=(0, by_ns))


def mounting_of(yaw_deg: float, *, size: tuple[int, int] = (96, 160), height_m: float = 1.6) -> Mounting:
    """A camera that looks to a side of the vehicle, level, 83 degrees wide."""
    yaw = np.radians(yaw_deg)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0.0], [np.sin(yaw), np.cos(yaw), 0.0], [0.0, 0.0, 1.0]])
    transform = np.eye(4)
    transform[:3, :3] = turn @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    transform[:3, 3] = [np.cos(yaw), np.sin(yaw), height_m]
    focal, (rows, cols) = size[1] * 90 / 160, size
    intrinsics = np.array([[focal, 0.0, (cols - 1) / 2], [0.0, focal, (rows - 1) / 2], [0.0, 0.0, 1.0]])
    return Mounting(ego_from_sensor=transform, intrinsics=intrinsics, size=size)


def scene_of(
    folder: Path,
    yaws_deg: Mapping[str, float],
    *,
    num_frames: int = 3,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    period_ns: int = 500_000_000,
    pose_period_ns: int = 0,
    offsets_ns: Sequence[int] | None = None,
    name: str = "made",
) -> Scene:
    """A drive at 2 m/s along x, with noise for images.

    Args:
        folder: For the images.
        yaws_deg: Direction of each camera, 0 ahead and 90 to the left [degrees].
        num_frames: Images of each camera.
        sizes: Height and width of the images of a camera; 96, 160 if not named.
        period_ns: Time between its images [ns].
        pose_period_ns: Time between poses [ns]; 0: one at each image.
        offsets_ns: When each camera fires in a period [ns]; 10 ms one after the other if None.
        name: Of the scene.
    """
    mountings = {
        camera: mounting_of(yaw, size=(sizes or {}).get(camera, (96, 160))) for camera, yaw in yaws_deg.items()
    }
    offsets = offsets_ns if offsets_ns is not None else [10_000_000 * number for number in range(len(mountings))]
    frames, key_frames = [], []
    for index in range(num_frames):
        stamps = {}
        for number, (camera, mounting) in enumerate(mountings.items()):
            path = folder / f"{name}-{camera}-{index}.jpg"
            noise = np.random.default_rng(10 * index + number).integers(0, 255, (12, 20, 3), dtype=np.uint8)
            cv2.imwrite(str(path), cv2.resize(noise, mounting.size[::-1], interpolation=cv2.INTER_NEAREST))
            stamps[camera] = START_NS + index * period_ns + offsets[number]
            frames.append(SensorFrame(channel=camera, stamp_ns=stamps[camera], path=path))
        first = min(stamps.values())
        key_frames.append(KeyFrame(token=f"{name}-{index}", stamp_ns=first, channel_stamps_ns=stamps, annotations=()))
    frames.sort(key=lambda frame: frame.stamp_ns)
    end = frames[-1].stamp_ns + 1
    pose_stamps = np.unique([frame.stamp_ns for frame in frames])
    if pose_period_ns:
        pose_stamps = np.arange(START_NS - pose_period_ns // 3, end + 2 * pose_period_ns, pose_period_ns)
    poses = np.stack([np.eye(4)] * len(pose_stamps))
    poses[:, 0, 3] = 1000.0 + 2e-9 * (pose_stamps - START_NS)
    return Scene(
        name=name,
        frames=tuple(frames),
        mountings=mountings,
        key_frames=tuple(key_frames),
        pose_stamps_ns=pose_stamps,
        global_from_ego=poses,
    )

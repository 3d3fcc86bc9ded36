"""Which moments of a recording become key frames, and which images and sweeps belong to them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.bag.messages import NANOSECONDS
from training.bag_import.config import BagImportConfig
from training.bag_import.scan import Scan
from training.bag_import.sources import Sources
from training.data.schema import token_of
from training.data.tables import LIDAR

_EARLY = 0.9  # of a period: a frame that comes so much before its time is still the one


@dataclass(frozen=True, kw_only=True)
class KeyFrame:
    """One sample that is to be."""

    token: str
    stamp_ns: int
    stamps_ns: Mapping[str, int]  # by channel, of its image or sweep


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """One scene that is to be."""

    name: str
    key_frames: tuple[KeyFrame, ...]  # by rising stamp, at least one
    global_from_fixed: np.ndarray  # (4, 4) [m], from the frame in which the vehicle moves


def plan_scenes(
    config: BagImportConfig, sources: Sources, scan: Scan, name: str
) -> tuple[list[ScenePlan], Counter[str]]:
    """Scenes in the order of time, and how many key frames could not be made, by reason.

    Args:
        config: The settings.
        sources: What is imported.
        scan: What the bag holds.
        name: Of the scene, where the bag names none itself; a number follows where there are several.
    """
    if scan.samples:
        return _named_scenes(scan), Counter()
    key_frames, skipped = _key_frames(config, sources, scan, name)
    parts: list[list[KeyFrame]] = []
    for key_frame in key_frames:
        if not parts or key_frame.stamp_ns - parts[-1][-1].stamp_ns > config.max_gap_s * NANOSECONDS:
            parts.append([])
        parts[-1].append(key_frame)
    names = [name] if len(parts) == 1 else [f"{name}-{number:03d}" for number in range(len(parts))]
    return [
        ScenePlan(name=own, key_frames=tuple(part), global_from_fixed=np.eye(4))
        for own, part in zip(names, parts, strict=True)
    ], skipped


def _named_scenes(scan: Scan) -> list[ScenePlan]:
    """Scenes that a bag of ours names, with the images and sweeps that came out of it."""
    there = {channel: set(stamps.tolist()) for channel, stamps in scan.stamps_ns.items()}
    parts: dict[str, dict[str, KeyFrame]] = {}
    origins: dict[str, np.ndarray] = {}
    for sample in scan.samples:
        stamps = {channel: ns for channel, ns in sample.channel_stamps_ns.items() if ns in there.get(channel, ())}
        key_frame = KeyFrame(token=sample.token, stamp_ns=sample.stamp_ns, stamps_ns=stamps)
        parts.setdefault(sample.scene, {}).setdefault(sample.token, key_frame)
        origins.setdefault(sample.scene, sample.global_from_map)
    return [
        ScenePlan(name=name, key_frames=tuple(part.values()), global_from_fixed=origins[name])
        for name, part in parts.items()
    ]


def _anchor(sources: Sources) -> str:
    """The channel whose stamps key frames have: the LiDAR, or else the camera that looks ahead."""
    if sources.lidar:
        return LIDAR
    return next((name for name in sources.cameras if "front" in name.lower()), sources.cameras[0])


def _key_frames(
    config: BagImportConfig, sources: Sources, scan: Scan, name: str
) -> tuple[list[KeyFrame], Counter[str]]:
    """Key frames at stamps of the anchor: of those that are due the first at which all sensors have something."""
    anchor, most = _anchor(sources), int(config.max_offset_ms * 1e6)
    least = _EARLY * NANOSECONDS / config.key_rate_hz
    used: set[tuple[str, int]] = set()
    found: list[KeyFrame] = []
    skipped: Counter[str] = Counter()
    for stamp in _candidates(scan, anchor, most):
        if found and stamp - found[-1].stamp_ns < least:
            continue
        nearest = {channel: _nearest(stamps, stamp, most) for channel, stamps in scan.stamps_ns.items()}
        stamps = {channel: ns for channel, ns in nearest.items() if ns is not None and (channel, ns) not in used}
        lacking = [channel for channel in sources.cameras if channel not in stamps]
        if lacking and (not config.keep_incomplete or len(lacking) == len(sources.cameras)):
            skipped[f"moments at which {', '.join(lacking)} had nothing within {config.max_offset_ms:g} ms"] += 1
            continue
        used |= set(stamps.items())
        found.append(KeyFrame(token=token_of(name, "sample", stamp), stamp_ns=stamp, stamps_ns=stamps))
    return found, skipped


def _candidates(scan: Scan, anchor: str, most: int) -> list[int]:
    """Stamps [ns] at which a key frame may be: those of the anchor, or of it those nearest to annotations."""
    stamps = scan.stamps_ns.get(anchor, np.zeros(0, np.int64))
    if not len(scan.annotation_stamps_ns):
        return [int(stamp) for stamp in stamps]
    nearest = (_nearest(stamps, int(wanted), most) for wanted in scan.annotation_stamps_ns)
    return sorted({stamp for stamp in nearest if stamp is not None})


def _nearest(stamps: np.ndarray, wanted: int, most: int) -> int | None:
    """The stamp nearest to a wanted one, if it is not further away than `most` [ns]."""
    place = int(np.searchsorted(stamps, wanted))
    near = [int(stamps[row]) for row in (place - 1, place) if 0 <= row < len(stamps)]
    best = min(near, key=lambda stamp: abs(stamp - wanted), default=None)
    return best if best is not None and abs(best - wanted) <= most else None

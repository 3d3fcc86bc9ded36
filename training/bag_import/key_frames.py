"""Which moments of a recording become key frames, and which images and sweeps belong to them."""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    anchor = _anchor(sources)
    anchors = scan.stamps_ns.get(anchor, np.zeros(0, np.int64))
    wanted = _thinned(scan.annotation_stamps_ns if len(scan.annotation_stamps_ns) else anchors, config.key_rate_hz)
    key_frames, skipped = _key_frames(config, scan, wanted, anchor, name)
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


def _thinned(stamps: np.ndarray, rate_hz: float) -> list[int]:
    """Of rising stamps [ns] those that are a period apart."""
    least = _EARLY * NANOSECONDS / rate_hz
    kept: list[int] = []
    for stamp in stamps.tolist():
        if not kept or stamp - kept[-1] >= least:
            kept.append(stamp)
    return kept


def _key_frames(
    config: BagImportConfig, scan: Scan, wanted: Sequence[int], anchor: str, name: str
) -> tuple[list[KeyFrame], Counter[str]]:
    """Key frames at the anchor's frames next to the wanted stamps, each with what is nearest of the other sensors."""
    most = int(config.max_offset_ms * 1e6)
    used: set[tuple[str, int]] = set()
    found: list[KeyFrame] = []
    skipped: Counter[str] = Counter()
    for target in wanted:
        stamp = _nearest(scan.stamps_ns[anchor], target, most) if anchor in scan.stamps_ns else None
        if stamp is None or (anchor, stamp) in used:
            skipped[f"no {anchor} near an annotation"] += 1
            continue
        nearest = {channel: _nearest(stamps, stamp, most) for channel, stamps in scan.stamps_ns.items()}
        stamps = {channel: ns for channel, ns in nearest.items() if ns is not None and (channel, ns) not in used}
        used |= set(stamps.items())
        found.append(KeyFrame(token=token_of(name, "sample", stamp), stamp_ns=stamp, stamps_ns=stamps))
    return found, skipped


def _nearest(stamps: np.ndarray, wanted: int, most: int) -> int | None:
    """The stamp nearest to a wanted one, if it is not further away than `most` [ns]."""
    place = int(np.searchsorted(stamps, wanted))
    near = [int(stamps[row]) for row in (place - 1, place) if 0 <= row < len(stamps)]
    best = min(near, key=lambda stamp: abs(stamp - wanted), default=None)
    return best if best is not None and abs(best - wanted) <= most else None

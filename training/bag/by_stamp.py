"""Key frames of a bag without /nuscenes/sample: those of its data set, found by the stamps of their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nuscenes import NuScenes

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.interface.topics import TopicMap
from training.bag.read_bag import Bag, BagError, BagSample
from training.evaluate.metrics import split_tokens

TOLERANCE_NS = 1_000_000  # writers that pass stamps through float seconds are off by less
_NANOSECONDS_PER_MICROSECOND = 1000


def samples_by_stamp(
    bag: Bag, nusc: NuScenes, split: str, *, layout: TopicMap, cameras: Sequence[str], reference_camera: str
) -> tuple[tuple[BagSample, ...], dict[int, np.ndarray]]:
    """Key frames of a split whose reference image is in a bag, and the ego poses at these images.

    Args:
        bag: The bag.
        nusc: The data set.
        split: Its split.
        layout: Where the bag keeps its topics.
        cameras: Cameras that are played.
        reference_camera: The camera whose images anchor the sets.

    Returns:
        Samples by stamp, with the stamps of the bag's images, and global_from_ego (4, 4) float64 [m] by stamp [ns].

    Raises:
        BagError: The bag has no image of any key frame of the split.
    """
    stamps = {camera: _stamps(bag, layout.image_topic(camera)) for camera in cameras}
    samples, poses = [], {}
    for token in split_tokens(nusc, split):
        sample = nusc.get("sample", token)
        if reference_camera not in sample["data"]:
            known = ", ".join(sample["data"])
            raise BagError(f"sample {token} of {nusc.version} has no camera {reference_camera}; it has {known}")
        found = {camera: _nearest(stamps[camera], nusc, sample["data"].get(camera)) for camera in cameras}
        reference_ns = found[reference_camera]
        if reference_ns is None:
            continue
        record = nusc.get("sample_data", sample["data"][reference_camera])
        pose = nusc.get("ego_pose", record["ego_pose_token"])
        poses[reference_ns] = transform_from(pose["rotation"], pose["translation"])
        samples.append(
            BagSample(
                scene=nusc.get("scene", sample["scene_token"])["name"],
                token=token,
                stamp_ns=int(sample["timestamp"]) * _NANOSECONDS_PER_MICROSECOND,
                channel_stamps_ns={camera: stamp for camera, stamp in found.items() if stamp is not None},
                global_from_map=np.eye(4),
            )
        )
    if not samples:
        raise BagError(
            f"{bag.path} has no /nuscenes/sample, and no image of {reference_camera} has the stamp of a key frame of "
            f"{nusc.version}, split '{split}'; without ground truth leave split empty"
        )
    return tuple(sorted(samples, key=lambda entry: entry.stamp_ns)), poses


def check_covered(nusc: NuScenes, split: str, tokens: set[str], paths: Sequence[Path]) -> None:
    """Raise BagError, before anything is played, unless the bags hold every key frame of a split."""
    missing = [token for token in split_tokens(nusc, split) if token not in tokens]
    if not missing:
        return
    scenes = dict.fromkeys(nusc.get("scene", nusc.get("sample", token)["scene_token"])["name"] for token in missing)
    names = ", ".join(path.name for path in paths)
    raise BagError(
        f"split '{split}' cannot be scored: {len(missing)} of its key frames, of {', '.join(list(scenes)[:5])}"
        f"{', ...' if len(scenes) > 5 else ''}, are not in {names}; give bags of all its scenes, or another split"
    )


def _stamps(bag: Bag, topic: str) -> np.ndarray:
    """Stamps (N,) int64 [ns] of a topic, rising."""
    found = [message.stamp_ns for message in bag.messages([topic])] if bag.counts.get(topic) else []
    return np.unique(np.array(found, dtype=np.int64))


def _nearest(stamps: np.ndarray, nusc: NuScenes, token: str | None) -> int | None:
    """Stamp [ns] of the bag's image that is a key frame's; None where there is none."""
    if token is None or not len(stamps):
        return None
    wanted = int(nusc.get("sample_data", token)["timestamp"]) * _NANOSECONDS_PER_MICROSECOND
    best = int(stamps[np.abs(stamps - wanted).argmin()])
    return best if abs(best - wanted) <= TOLERANCE_NS else None

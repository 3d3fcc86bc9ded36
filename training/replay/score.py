"""Score recorded detections with the evaluator of the offline runs.

A set's stamp is the stamp of its reference image, so a key frame's detections are those whose stamp is that of the key
frame's reference image. They go to the global frame by the ego pose at their own stamp: nuScenes boxes hold at the
stamp of the LiDAR, up to some 40 ms later, but whatever stands still lands where it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bevdistill_ros.core.records import Detections
from training.bag.read_bag import BagError, BagSample


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Detections of samples, ready for evaluation."""

    detections: Mapping[str, Detections]  # by sample token; empty where the node answered nothing
    global_from_ego: Mapping[str, Tensor]  # by sample token, (4, 4) float64 [m], at the stamp of the reference image
    unanswered: tuple[str, ...]  # tokens of the samples without an answer


def match_samples(
    recorded: Mapping[int, Detections],
    samples: Sequence[BagSample],
    poses: Mapping[int, np.ndarray],
    reference_camera: str,
) -> Scored:
    """Give each sample the detections of the set that its reference image anchored.

    Args:
        recorded: Detections by stamp [ns].
        samples: Key frames of the bag.
        poses: map_from_base (4, 4) [m] by stamp [ns].
        reference_camera: Camera whose images anchor the sets.

    Raises:
        BagError: The bag has no image of that camera or no pose for a sample.
    """
    detections, global_from_ego, unanswered = {}, {}, []
    for sample in samples:
        stamp_ns = sample.channel_stamps_ns.get(reference_camera)
        if stamp_ns is None:
            known = ", ".join(sample.channel_stamps_ns)
            raise BagError(f"sample {sample.token} has no image of {reference_camera}; it has {known}")
        if stamp_ns not in poses:
            raise BagError(f"sample {sample.token} has no odometry at {stamp_ns} ns, the stamp of {reference_camera}")
        if stamp_ns not in recorded:
            unanswered.append(sample.token)
        detections[sample.token] = recorded.get(stamp_ns) or Detections.empty(stamp_ns)
        global_from_ego[sample.token] = torch.from_numpy(sample.global_from_map @ poses[stamp_ns])
    return Scored(detections=detections, global_from_ego=global_from_ego, unanswered=tuple(unanswered))


def merge(parts: Iterable[Scored]) -> Scored:
    """Several bags as one; a sample that two of them hold is a ValueError."""
    detections: dict[str, Detections] = {}
    global_from_ego: dict[str, Tensor] = {}
    unanswered: list[str] = []
    for part in parts:
        if twice := set(detections) & set(part.detections):
            raise ValueError(f"sample {sorted(twice)[0]} is in two of the bags; give each scene once")
        detections.update(part.detections)
        global_from_ego.update(part.global_from_ego)
        unanswered.extend(part.unanswered)
    return Scored(detections=detections, global_from_ego=global_from_ego, unanswered=tuple(unanswered))

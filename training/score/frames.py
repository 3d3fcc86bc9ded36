"""Frames of a split by time: what the report says of each, and what was missed and wrong in it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes.nuscenes import NuScenes

from bevdistill_ros.core.geometry import matrix_from_quaternion, yaw_of
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.data.tables import LIDAR
from training.evaluate.metrics import split_tokens
from training.score.by_class import ERROR_THRESHOLD
from training.score.curves import RECALLS, Curve
from training.score.matching import Matches

UNKNOWN_OPERATING_SCORE = 0.3  # of a class of which nothing was hit


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a split, scene by scene in the order of time."""

    tokens: tuple[str, ...]  # of the samples
    scenes: tuple[str, ...]  # names, sorted
    scene: NDArray[np.int64]  # place in scenes of each frame
    stamp_us: NDArray[np.int64]  # [µs] of each frame, as in the tables
    ego: NDArray[np.float64]  # (N, 3) x, y [m] and heading [rad] of the vehicle in the global frame

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "token": list(self.tokens),
            "scene": [self.scenes[number] for number in self.scene],
            "stamp_us": self.stamp_us.tolist(),
            "ego": self.ego.round(4).tolist(),
        }


def frames_of(nusc: NuScenes, split: str) -> Frames:
    """Frames of a split; a ValueError lists the splits that there are."""
    samples = [nusc.get("sample", token) for token in split_tokens(nusc, split)]
    names = {sample["scene_token"]: nusc.get("scene", sample["scene_token"])["name"] for sample in samples}
    samples.sort(key=lambda sample: (names[sample["scene_token"]], sample["timestamp"]))
    scenes = tuple(sorted(set(names.values())))
    places = {name: place for place, name in enumerate(scenes)}
    return Frames(
        tokens=tuple(sample["token"] for sample in samples),
        scenes=scenes,
        scene=np.array([places[names[sample["scene_token"]]] for sample in samples], dtype=np.int64),
        stamp_us=np.array([sample["timestamp"] for sample in samples], dtype=np.int64),
        ego=np.array([_ego(nusc, sample) for sample in samples]).reshape(-1, 3),
    )


def _ego(nusc: NuScenes, sample: Mapping[str, Any]) -> list[float]:
    pose = nusc.get("ego_pose", nusc.get("sample_data", sample["data"][LIDAR])["ego_pose_token"])
    return [*pose["translation"][:2], yaw_of(matrix_from_quaternion(np.array(pose["rotation"])))]


def operating_scores(curves: Mapping[str, Curve]) -> dict[str, float]:
    """The score of each class above which precision and recall are best together (F1)."""
    scores = {}
    for name, curve in curves.items():
        quality = curve.precision * RECALLS / np.maximum(curve.precision + RECALLS, 1e-9)
        best = int(quality.argmax())
        scores[name] = float(curve.score[best]) if quality[best] > 0 else UNKNOWN_OPERATING_SCORE
    return scores


def counts_of(matches: Matches, least: Mapping[str, float]) -> dict[str, dict[str, list[int]]]:
    """Boxes of each frame by kind (truth, found, missed, false) and class, at 2 m and above the least scores."""
    threshold = np.array([least[name] for name in CLASS_NAMES])
    confident = matches.take(matches.score >= threshold[matches.label])
    hit = confident.hits[:, ERROR_THRESHOLD]

    def count(rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        counts = np.zeros_like(matches.truth)
        np.add.at(counts, (confident.frame[rows], confident.label[rows]), 1)
        return counts

    hits = count(hit)
    kinds = {"truth": matches.truth, "found": count(hit | ~hit), "missed": matches.truth - hits, "false": count(~hit)}
    return {
        kind: {name: column.tolist() for name, column in zip(CLASS_NAMES, counts.T, strict=True) if column.any()}
        for kind, counts in kinds.items()
    }

"""Tracks as rows of nuScenes tables; what the schema does not have is said in fields that its devkit passes over."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name

from bevdistill_ros.core.geometry import quaternion_from_yaw
from bevdistill_ros.core.nuscenes import CLASS_NAMES, attribute_of
from training.data.schema import CATEGORIES
from training.label.records import Label, Track

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SceneLabels:
    """The rows of a scene's labels."""

    scene: str  # name
    samples: tuple[str, ...]  # tokens of its key frames, with labels or not
    instances: list[Row]
    annotations: list[Row]


class Names:
    """Tokens of a database's categories and attributes; what it lacks is added.

    Args:
        categories: Rows of its table, which may grow.
        attributes: As well.
    """

    def __init__(self, categories: list[Row], attributes: list[Row]) -> None:
        self._attributes = {row["name"]: row["token"] for row in attributes}
        self._categories: dict[str, str] = {}
        for row in categories:
            self._categories.setdefault(str(category_to_detection_name(row["name"])), row["token"])
        for name in CATEGORIES:
            if (known := category_to_detection_name(name)) is not None and known not in self._categories:
                self._categories[known] = _added(categories, "category", name)
        wanted = {attribute_of(name, speed) for name in CLASS_NAMES for speed in (0.0, 10.0)} - {""}
        for name in sorted(wanted - set(self._attributes)):
            self._attributes[name] = _added(attributes, "attribute", name)

    def category(self, class_name: str) -> str:
        """Token of a category of a detection class."""
        return self._categories[class_name]

    def attributes(self, class_name: str, speed: float) -> list[str]:
        """Tokens of the attributes that fit a class at a speed [m/s]: one, or none."""
        name = attribute_of(class_name, speed)
        return [self._attributes[name]] if name else []


def rows_of(
    tracks: Sequence[Track],
    *,
    scene: str,
    samples: Sequence[str],
    stamps_ns: Sequence[int],
    num_points: Mapping[tuple[int, int], int],
    names: Names,
    origin: str,
) -> SceneLabels:
    """Instances and annotations of a scene's tracks.

    Args:
        tracks: Of the scene.
        scene: Its name.
        samples: Tokens of its key frames.
        stamps_ns: Of those [ns].
        num_points: LiDAR points in a track's label, by the track's number and the frame.
        names: Of the database that gets the rows.
        origin: What made the labels.
    """
    instances: list[Row] = []
    annotations: list[Row] = []
    for number, track in enumerate(tracks):
        class_name = CLASS_NAMES[track.label]
        instance = _token(origin, scene, "instance", number)
        tokens = [_token(instance, label.frame) for label in track.labels]
        speeds = _speeds(track.labels, stamps_ns)
        for place, label in enumerate(track.labels):
            annotations.append(
                {
                    "token": tokens[place],
                    "sample_token": samples[label.frame],
                    "instance_token": instance,
                    "visibility_token": "",  # not known
                    "attribute_tokens": names.attributes(class_name, speeds[place]),
                    **_geometry(label.box),
                    "prev": tokens[place - 1] if place else "",
                    "next": tokens[place + 1] if place + 1 < len(tokens) else "",
                    "num_lidar_pts": num_points[number, label.frame],
                    "num_radar_pts": 0,
                    "score": round(label.score, 6),
                    "origin": origin,
                    "filled": label.is_filled,
                }
            )
        instances.append(
            {
                "token": instance,
                "category_token": names.category(class_name),
                "nbr_annotations": len(tokens),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )
    return SceneLabels(scene=scene, samples=tuple(samples), instances=instances, annotations=annotations)


def _geometry(box: np.ndarray) -> Row:
    x, y, z, length, width, height, yaw = (float(value) for value in box[:7])
    return {
        "translation": [x, y, z],
        "size": [width, length, height],
        "rotation": quaternion_from_yaw(yaw).tolist(),
    }


def _speeds(labels: Sequence[Label], stamps_ns: Sequence[int]) -> list[float]:
    """Speed of each label of a track [m/s]: as the devkit has it from the labels before and after; of one alone its
    own velocity, and 0 where that is unknown."""
    if len(labels) == 1:
        return [float(np.hypot(*np.nan_to_num(labels[0].box[7:9])))]
    speeds = []
    for place in range(len(labels)):
        first, last = labels[max(place - 1, 0)], labels[min(place + 1, len(labels) - 1)]
        seconds = (stamps_ns[last.frame] - stamps_ns[first.frame]) * 1e-9
        speeds.append(float(np.linalg.norm(last.box[:2] - first.box[:2])) / seconds)
    return speeds


def _added(rows: list[Row], table: str, name: str) -> str:
    token = _token(table, name)
    rows.append({"token": token, "name": name, "description": ""})
    return token


def _token(*parts: object) -> str:
    """A token that the parts alone decide."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()

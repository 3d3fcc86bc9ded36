"""Boxes of annotations in a bag, whatever message holds them."""

import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.nuscenes import CLASS_NAMES
from training.bag import messages
from training.bag.foreign_types import AUTOWARE_LABELS, VISION_ARRAY
from training.bag.messages import DETECTIONS_TYPE
from training.bag.read_bag import Bag
from training.bag.write_bag import SAMPLE_TOPIC
from training.bag_import.sources import MARKERS_TYPE, STRING_TYPE
from training.data.schema import CATEGORIES, CATEGORY_OF_CLASS

_CUBE, _ADD = 1, 0
_SYNONYMS = {
    "person": "pedestrian",
    "construction": "construction_vehicle",
    "cone": "traffic_cone",
    "trafficcone": "traffic_cone",
    "motorbike": "motorcycle",
    "bike": "bicycle",
}
_LENGTHS = {"translation": 3, "rotation": 4, "size": 3}
_TEXTS, _NUMBERS = ("token", "instance_token", "category", "visibility"), ("num_lidar_pts", "num_radar_pts")


@dataclass(frozen=True, kw_only=True)
class FoundBox:
    """A box as the bag has it."""

    name: str  # of its class
    instance: str  # the same for one object over time; empty where the bag does not say
    frame: str  # of the pose; empty: the global frame of the data set
    pose: np.ndarray  # (4, 4) [m]
    size: tuple[float, float, float]  # length, width, height [m]
    row: Mapping[str, Any] = field(default_factory=dict)  # of a data set that the bag was written from

    @property
    def is_usable(self) -> bool:
        """Whether it has a place and a size."""
        return bool(np.isfinite(self.pose).all()) and all(math.isfinite(side) and side > 0 for side in self.size)


def boxes_of(bag: Bag, topic: str, stamps_ns: Iterable[int], max_offset_ns: int) -> dict[int, list[FoundBox]]:
    """Boxes by the stamp of the key frame whose annotations they are.

    Args:
        bag: The bag.
        topic: Topic of the annotations.
        stamps_ns: Stamps of the key frames [ns].
        max_offset_ns: How far annotations may be from a key frame [ns]; those nearest to it are taken.

    Returns:
        For each key frame that was annotated, be it that nothing was there.

    Raises:
        BagError: The bag is damaged.
    """
    wanted = sorted(stamps_ns)
    best: dict[int, tuple[int, list[FoundBox]]] = {}
    most = 0 if topic == SAMPLE_TOPIC else max_offset_ns
    for stamp_ns, found in _messages_of(bag, topic):
        place = bisect_left(wanted, stamp_ns)
        for key in wanted[max(place - 1, 0) : place + 1]:
            offset = abs(key - stamp_ns)
            if offset <= most and offset < best.get(key, (most + 1, []))[0]:
                best[key] = (offset, found)
    return {key: found for key, (_, found) in best.items()}


def _messages_of(bag: Bag, topic: str) -> Iterator[tuple[int, list[FoundBox]]]:
    kind = bag.topics[topic]
    readers: dict[str, Callable[[Any], list[FoundBox]]] = {
        VISION_ARRAY: _of_vision,
        DETECTIONS_TYPE: _of_detections,
        MARKERS_TYPE: _of_markers,
    }
    if kind == STRING_TYPE:
        for _, (stamp_ns, rows) in bag.decoded(topic, kind, _of_sample):
            if rows is not None:
                yield stamp_ns, rows
    else:
        convert = readers.get(kind, _of_autoware)
        for _, (stamp_ns, found) in bag.decoded(topic, kind, lambda content: (_stamp_of(content), convert(content))):
            yield stamp_ns, found


def _stamp_of(content: Any) -> int:
    """Stamp [ns]; a MarkerArray has that of its first marker."""
    return messages.stamp_of(content if hasattr(content, "header") else content.markers[0])


class Categories:
    """Which nuScenes category a class of a bag means.

    Args:
        own: What the user said: category or detection class by the bag's name; empty: leave it out.

    Raises:
        ValueError: A value is neither.
    """

    def __init__(self, own: Mapping[str, str]) -> None:
        for name, category in own.items():
            if category not in ("", *CATEGORIES, *CLASS_NAMES):
                raise ValueError(
                    f"classes.{name} is '{category}', which is neither a nuScenes category, such as vehicle.car, nor "
                    f"one of {', '.join(CLASS_NAMES)}"
                )
        self._own = dict(own)
        self.unknown: Counter[str] = Counter()  # boxes that are left out, by the name of their class

    def category(self, name: str) -> str | None:
        """The category of a class; None for a box to leave out, which is counted."""
        given = self._own.get(name, name)
        plain = given.strip().lower().replace(" ", "_")
        detected = _SYNONYMS.get(plain, plain)
        found = given if given in CATEGORIES else CATEGORY_OF_CLASS.get(detected)
        if found is None and given:
            self.unknown[name] += 1
        return found


def _of_sample(content: Any) -> tuple[int, list[FoundBox] | None]:
    """The rows that a bag of ours holds; None for a key frame that nobody annotated."""
    fields = json.loads(content.data)
    rows = fields.get("annotations")
    return int(fields["stamp_ns"]), None if rows is None else [_of_row(row) for row in rows]


def _of_row(row: Mapping[str, Any]) -> FoundBox:
    place, turn, size = (
        _numbers(row[name], count) for name, count in (("translation", 3), ("rotation", 4), ("size", 3))
    )
    if not all(isinstance(row[name], str) for name in _TEXTS) or not all(type(row[name]) is int for name in _NUMBERS):
        raise ValueError("an annotation has texts or numbers of another type")
    if not all(isinstance(name, str) for name in row["attributes"]):
        raise ValueError("attributes of an annotation are not texts")
    width, length, height = size
    return FoundBox(
        name=row["category"],
        instance=row["instance_token"],
        frame="",
        pose=transform_from(np.array(turn), np.array(place)),
        size=(length, width, height),
        row={**row, "translation": place, "rotation": turn, "size": size},
    )


def _of_vision(array: Any) -> list[FoundBox]:
    found = []
    for entry in array.detections:
        best = max(entry.results, key=lambda result: result.hypothesis.score, default=None)
        found.append(
            FoundBox(
                name=best.hypothesis.class_id if best is not None else "",
                instance=entry.id,
                frame=(entry.header.frame_id or array.header.frame_id).lstrip("/"),
                pose=_pose(entry.bbox.center.position, entry.bbox.center.orientation),
                size=_size(entry.bbox.size),
            )
        )
    return found


def _of_detections(array: Any) -> list[FoundBox]:
    frame = array.header.frame_id.lstrip("/")
    return [
        FoundBox(
            name=entry.class_name,
            instance="",
            frame=frame,
            pose=_pose(entry.pose.position, entry.pose.orientation),
            size=_size(entry.size),
        )
        for entry in array.detections
    ]


def _of_markers(array: Any) -> list[FoundBox]:
    """Boxes of cubes; the namespace is the class, or else the text."""
    found = []
    for marker in array.markers:
        if (marker.type, marker.action) != (_CUBE, _ADD):
            continue
        box = FoundBox(
            name=marker.ns if marker.ns and not marker.text else marker.text,
            instance=f"{marker.ns}/{marker.id}",
            frame=marker.header.frame_id.lstrip("/"),
            pose=_pose(marker.pose.position, marker.pose.orientation),
            size=_size(marker.scale),
        )
        found.append(box)
    return found


def _of_autoware(array: Any) -> list[FoundBox]:
    frame, found = array.header.frame_id.lstrip("/"), []
    for entry in array.objects:
        best = max(entry.classification, key=lambda label: label.probability, default=None)
        label = int(best.label) if best is not None else 0
        kinematics = entry.kinematics
        predicted = getattr(kinematics, "initial_pose_with_covariance", None)
        pose = (predicted or kinematics.pose_with_covariance).pose
        identity = getattr(entry, "object_id", None)
        box = FoundBox(
            name=AUTOWARE_LABELS[label] if label < len(AUTOWARE_LABELS) else f"label {label}",
            instance=bytes(identity.uuid).hex() if identity is not None else "",
            frame=frame,
            pose=_pose(pose.position, pose.orientation),
            size=_size(entry.shape.dimensions),
        )
        found.append(box)
    return found


def _size(vector: Any) -> tuple[float, float, float]:
    return float(vector.x), float(vector.y), float(vector.z)


def _pose(position: Any, orientation: Any) -> np.ndarray:
    """Pose (4, 4) [m]; NaN where the quaternion is not a rotation, as tools leave it that do not fill it."""
    try:
        return messages.matrix_of(position, orientation)
    except ValueError:
        return np.full((4, 4), np.nan)


def _numbers(values: Any, count: int) -> list[float]:
    numbers = [float(value) for value in values if type(value) in (int, float)]
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{values!r:.80} must be {count} finite numbers")
    return numbers

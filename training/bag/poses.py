"""Where a vehicle was at any time: by a data set's poses, carried between them by what the vehicle recorded."""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import torch

from bevdistill_ros.core.geometry import interpolate_poses, invert_rigid
from training.bag import messages
from training.bag.read_bag import Bag

SAME_STAMP_NS = 1_000  # data sets count microseconds
CLOSE_NS = 150_000_000  # poses this close need nothing between them
MAX_GAP_NS = 1_000_000_000  # nothing is known between poses further apart
MAX_BEYOND_NS = 100_000_000  # nor further beyond the first or the last


class PoseTrack:
    """Poses by time, interpolated.

    Args:
        poses: target_from_ego (4, 4) [m] by stamp [ns].
    """

    def __init__(self, poses: Mapping[int, np.ndarray]) -> None:
        self._stamps = sorted(poses)
        self._poses = [poses[stamp] for stamp in self._stamps]

    @classmethod
    def of_bag(cls, bag: Bag, base_frame: str, odometry_topic: str = "") -> Self:
        """Poses that a bag holds: those of its odometry, else of /tf; none where it has neither.

        Args:
            bag: The bag.
            base_frame: Frame of the vehicle on /tf.
            odometry_topic: nav_msgs/Odometry; empty: the one topic of that type.

        Raises:
            BagError: The bag is damaged, or lacks the topic.
        """
        kind = "nav_msgs/msg/Odometry"
        topics = [odometry_topic] if odometry_topic else [topic for topic, own in bag.topics.items() if own == kind]
        if len(topics) == 1:
            return cls(dict(pose for _, pose in bag.decoded(topics[0], kind, _odometry)))
        if bag.topics.get("/tf") == messages.TRANSFORMS_TYPE:
            read = bag.decoded("/tf", convert=lambda content: list(_transforms(content, base_frame)))
            return cls(dict(pose for _, poses in read for pose in poses))
        return cls({})

    def gap_ns(self, stamp_ns: int) -> int:
        """Time between the poses around a stamp [ns]; 0 at a pose, and very large where nothing is known."""
        place = bisect_left(self._stamps, stamp_ns - SAME_STAMP_NS)
        if place < len(self._stamps) and abs(self._stamps[place] - stamp_ns) <= SAME_STAMP_NS:
            return 0
        if 0 < place < len(self._stamps):
            return self._stamps[place] - self._stamps[place - 1]
        ends = [abs(self._stamps[end] - stamp_ns) for end in (0, -1)] if len(self._stamps) > 1 else [MAX_GAP_NS + 1]
        return min(ends) if min(ends) <= MAX_BEYOND_NS else MAX_GAP_NS + 1

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """target_from_ego (4, 4) float64 [m] at a stamp; None where it is not known."""
        if self.gap_ns(stamp_ns) > MAX_GAP_NS:
            return None
        place = bisect_left(self._stamps, stamp_ns - SAME_STAMP_NS)
        if place < len(self._stamps) and abs(self._stamps[place] - stamp_ns) <= SAME_STAMP_NS:
            return self._poses[place]
        second = min(max(place, 1), len(self._stamps) - 1)
        first = second - 1
        fraction = (stamp_ns - self._stamps[first]) / (self._stamps[second] - self._stamps[first])
        return interpolate_poses(self._poses[first], self._poses[second], fraction)

    def nearest(self, stamp_ns: int) -> int | None:
        """The stamp [ns] of the pose nearest to a stamp."""
        place = bisect_left(self._stamps, stamp_ns)
        around = self._stamps[max(place - 1, 0) : place + 1]
        return min(around, key=lambda stamp: abs(stamp - stamp_ns), default=None)


class VehiclePoses:
    """global_from_ego at any stamp.

    Where the data set's poses are far apart, the motion from the nearest one is that of the recording, whose own frame
    does not matter: only differences of its poses are used.

    Args:
        known: global_from_ego of the data set.
        recorded: odom_from_ego of the recording.
    """

    def __init__(self, known: PoseTrack, recorded: PoseTrack) -> None:
        self._known, self._recorded = known, recorded

    def at(self, stamp_ns: int) -> np.ndarray | None:
        """global_from_ego (4, 4) float64 [m]; None where it is not known."""
        if self._known.gap_ns(stamp_ns) <= CLOSE_NS:
            return self._known.at(stamp_ns)
        anchor_ns = self._known.nearest(stamp_ns)
        if anchor_ns is None:
            return None
        start, end = self._recorded.at(anchor_ns), self._recorded.at(stamp_ns)
        if start is None or end is None:
            return self._known.at(stamp_ns)
        global_from_anchor = self._known.at(anchor_ns)
        assert global_from_anchor is not None
        return np.asarray(global_from_anchor @ invert_rigid(torch.from_numpy(start)).numpy() @ end)


def _odometry(content: Any) -> tuple[int, np.ndarray]:
    pose = messages.matrix_of(content.pose.pose.position, content.pose.pose.orientation)
    return messages.stamp_of(content), _finite(pose)


def _transforms(content: Any, base_frame: str) -> Iterator[tuple[int, np.ndarray]]:
    for entry in content.transforms:
        if entry.child_frame_id.lstrip("/") == base_frame:
            pose = messages.matrix_of(entry.transform.translation, entry.transform.rotation)
            yield messages.stamp_of(entry), _finite(pose)


def _finite(pose: np.ndarray) -> np.ndarray:
    if not np.isfinite(pose).all():
        raise ValueError(f"the pose is not finite: position {pose[:3, 3].tolist()}")
    return pose

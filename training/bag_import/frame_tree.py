"""Frames of a recording: what is fixed to what, and what moves how."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.core.geometry import interpolate_poses, transform_from
from training.bag.read_bag import BagError

MOVES_M = 1e-4  # a transform that changes by more is no mounting
MAX_FRAMES = 10_000
MAX_POSES = 8_000_000  # of all frames together; half a gigabyte
_POSE = 7


@dataclass(frozen=True, eq=False)
class Track:
    """Poses of a frame over time.

    Args:
        stamps_ns: (N,) int64, rising.
        poses: (N, 7) float64, translation [m] and quaternion w x y z.
    """

    stamps_ns: np.ndarray
    poses: np.ndarray

    def at(self, stamp_ns: int, max_gap_ns: int) -> np.ndarray | None:
        """Pose (4, 4) [m] at a stamp: the very one of that stamp, or between two that are not too far apart."""
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self.stamps_ns) and self.stamps_ns[after] == stamp_ns:
            return self._pose(after)
        if after in (0, len(self.stamps_ns)):
            return None
        start, end = int(self.stamps_ns[after - 1]), int(self.stamps_ns[after])
        if end - start > max_gap_ns:
            return None
        return interpolate_poses(self._pose(after - 1), self._pose(after), (stamp_ns - start) / (end - start))

    def _pose(self, row: int) -> np.ndarray:
        return transform_from(self.poses[row, 3:], self.poses[row, :3])


class TrackBuilder:
    """Collects poses in the order in which they come, without an object per pose."""

    def __init__(self) -> None:
        self._stamps, self._values = array("q"), array("d")

    def __len__(self) -> int:
        return len(self._stamps)

    def add(self, stamp_ns: int, translation: tuple[float, ...], quaternion: tuple[float, ...]) -> None:
        """Add a pose: translation [m], quaternion w x y z."""
        self._stamps.append(stamp_ns)
        self._values.extend((*translation, *quaternion))

    def track(self) -> Track:
        """The poses by rising stamp; of several with one stamp the first."""
        stamps = np.frombuffer(self._stamps, dtype=np.int64) if self._stamps else np.zeros(0, np.int64)
        poses = np.frombuffer(self._values, dtype=np.float64) if self._values else np.zeros(0)
        rising, rows = np.unique(stamps, return_index=True)
        return Track(rising, poses.reshape(-1, _POSE)[rows])


class TreeBuilder:
    """Collects transforms; those of a frame are kept from when it moves on."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, int, np.ndarray]] = {}  # child: parent, stamp, first values
        self._moving: dict[str, TrackBuilder] = {}
        self._static: dict[str, tuple[str, np.ndarray]] = {}
        self._count = 0

    def add(self, message: object, *, is_static: bool) -> None:
        """Add what a TFMessage holds; a ValueError says what in it is not a transform."""
        for entry in message.transforms:  # type: ignore[attr-defined]
            child, parent = entry.child_frame_id.lstrip("/"), entry.header.frame_id.lstrip("/")
            move, turn = entry.transform.translation, entry.transform.rotation
            values = (move.x, move.y, move.z, turn.w, turn.x, turn.y, turn.z)
            if not np.isfinite(values).all() or not any(values[3:]):
                raise ValueError(f"the transform of {child} in {parent} is {values}")
            stamp_ns = int(entry.header.stamp.sec) * 1_000_000_000 + int(entry.header.stamp.nanosec)
            if is_static:
                self._static[child] = (parent, transform_from(np.array(values[3:]), np.array(values[:3])))
            else:
                self._add_moving(child, parent, stamp_ns, values)
        if len(self._first) + len(self._static) > MAX_FRAMES:
            raise BagError(f"the transforms name more than {MAX_FRAMES} frames, as no vehicle does")

    def _add_moving(self, child: str, parent: str, stamp_ns: int, values: tuple[float, ...]) -> None:
        known = self._first.setdefault(child, (parent, stamp_ns, np.array(values)))
        if child not in self._moving and (known[0] != parent or np.abs(known[2] - values).max() > MOVES_M):
            self._moving[child] = TrackBuilder()
            self._moving[child].add(known[1], tuple(known[2][:3]), tuple(known[2][3:]))
        if child in self._moving and known[0] == parent:
            self._moving[child].add(stamp_ns, values[:3], values[3:])
            self._count += 1
            if self._count > MAX_POSES:
                raise BagError(
                    f"more than {MAX_POSES} transforms move; take the motion from an odometry: odometry_topic"
                )

    def tree(self) -> "FrameTree":
        """All that was added; a static transform overrides others of its frame."""
        fixed = {
            child: (parent, transform_from(values[3:], values[:3]))
            for child, (parent, _, values) in self._first.items()
            if child not in self._moving
        }
        moving = {
            child: (self._first[child][0], builder.track())
            for child, builder in self._moving.items()
            if child not in self._static
        }
        followed = frozenset(self._first) - frozenset(self._static)
        return FrameTree(fixed={**fixed, **self._static}, moving=moving, followed=followed)


@dataclass(frozen=True, kw_only=True)
class FrameTree:
    """Frames by name, each with its parent and its pose in it."""

    fixed: Mapping[str, tuple[str, np.ndarray]]  # child: parent, parent_from_child (4, 4) [m]
    moving: Mapping[str, tuple[str, Track]]  # child: parent, poses in it
    followed: frozenset[str] = frozenset()  # children that are not latched: they move, or stand still and might move

    def with_track(self, child: str, parent: str, track: Track) -> "FrameTree":
        """The tree in which a frame moves so, whatever it said before."""
        fixed = {name: edge for name, edge in self.fixed.items() if name != child}
        moving = {**self.moving, child: (parent, track)}
        return FrameTree(fixed=fixed, moving=moving, followed=self.followed | {child})

    def root_of(self, frame: str) -> str:
        """The frame above all others of a frame."""
        return self._names(frame)[-1]

    def is_followed(self, frame: str) -> bool:
        """Whether the recording says all the time where a frame is, be it that it stands still."""
        return any(name in self.followed for name in self._names(frame))

    def mounting(self, target: str, source: str) -> np.ndarray | None:
        """target_from_source (4, 4) [m] of frames that are fixed to each other; None where they are not."""
        names = (self._names(target, only_fixed=True), self._names(source, only_fixed=True))
        return self._lookup(names, 0, 0)

    def lookup(self, target: str, source: str, stamp_ns: int, max_gap_ns: int) -> np.ndarray | None:
        """target_from_source (4, 4) [m] at a stamp; None where the frames are not connected then."""
        return self._lookup((self._names(target), self._names(source)), stamp_ns, max_gap_ns)

    def _lookup(self, names: tuple[list[str], list[str]], stamp_ns: int, max_gap_ns: int) -> np.ndarray | None:
        common = next((name for name in names[1] if name in names[0]), None)
        if common is None:
            return None
        up = [self._climb(chain[: chain.index(common)], stamp_ns, max_gap_ns) for chain in names]
        if up[0] is None or up[1] is None:
            return None
        return np.linalg.inv(up[0]) @ up[1] if len(names[0]) and names[0][0] != common else up[1]

    def _climb(self, chain: list[str], stamp_ns: int, max_gap_ns: int) -> np.ndarray | None:
        """ancestor_from_frame (4, 4) over the frames of a chain."""
        ancestor_from_frame = np.eye(4)
        for name in chain:
            if name in self.moving:
                edge = self.moving[name][1].at(stamp_ns, max_gap_ns)
                if edge is None:
                    return None
            else:
                edge = self.fixed[name][1]
            ancestor_from_frame = edge @ ancestor_from_frame
        return ancestor_from_frame

    def _names(self, frame: str, *, only_fixed: bool = False) -> list[str]:
        """The frame, its parent, and so on to the root; a circle ends where it begins."""
        chain = [frame]
        while True:
            edge = self.fixed.get(chain[-1]) or (None if only_fixed else self.moving.get(chain[-1]))
            if edge is None or edge[0] in chain:
                return chain
            chain.append(edge[0])

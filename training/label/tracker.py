"""Consistency over time: detections of a scene become tracks, greedily and with constant velocity.

As in CenterPoint (arXiv 2006.11275, section 4.3), detections are associated by the distance of centres, nearest first.
Here this happens in the global frame and per class, tracks are carried on by the velocity of their last detection, and
a detection too weak to begin a track may continue one (as in ByteTrack, arXiv 2110.06864).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bevdistill_ros.core.boxes import BOX_SIZE
from bevdistill_ros.core.nuscenes import NUM_CLASSES
from training.label.records import FrameBoxes, Label, Track

_YAW, _VELOCITY = 6, slice(7, 9)  # in a box


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """How detections become tracks."""

    max_distance: float = 2.0  # [m] between a detection and where its track is expected
    max_gap: float = 1.1  # [s] without a detection after which a track ends
    min_length: int = 2  # detections of a track; shorter ones are no labels
    continues_at: float = 0.5  # share of its class's threshold at which a detection may continue a track
    fill_gaps: bool = True  # also label the frames between two detections of a track

    def __post_init__(self) -> None:
        if self.max_distance <= 0 or self.max_gap <= 0 or self.min_length < 1 or not 0 < self.continues_at <= 1:
            raise ValueError(
                "track.max_distance and track.max_gap must be above 0, track.min_length at least 1 and "
                f"track.continues_at in (0, 1], but they are {self.max_distance}, {self.max_gap}, {self.min_length} "
                f"and {self.continues_at}"
            )


def tracks_of(frames: Sequence[FrameBoxes], thresholds: np.ndarray, config: TrackConfig | None) -> list[Track]:
    """The tracks of a scene.

    Args:
        frames: Detections of its key frames, in the order of time.
        thresholds: (10,) least score of each class; above 1: no labels of it.
        config: How to track; None: each detection at or above its threshold is a track of its own.
    """
    if config is None:
        return [
            Track(label=int(frame.labels[row]), labels=(_label(frame, number, row),))
            for number, frame in enumerate(frames)
            for row in np.flatnonzero(frame.scores >= thresholds[frame.labels])
        ]
    tracks = [track for label in range(NUM_CLASSES) for track in _tracks_of_class(frames, label, thresholds, config)]
    return [_filled(track, frames) if config.fill_gaps else track for track in tracks]


def distinct(frame: FrameBoxes, distance: float) -> FrameBoxes:
    """Drop each detection whose centre is nearer than a distance [m] to that of a better one of its class."""
    order = np.argsort(-frame.scores, kind="stable")
    kept: list[int] = []
    for row in order:
        rivals = [other for other in kept if frame.labels[other] == frame.labels[row]]
        gaps = np.linalg.norm(frame.boxes[rivals, :2] - frame.boxes[row, :2], axis=1)
        if not (gaps < distance).any():
            kept.append(int(row))
    return frame.rows(kept)


@dataclass(eq=False)
class _Open:
    """A track that may go on."""

    stamp_ns: int  # of its last detection
    labels: list[Label] = field(default_factory=list)

    def expected(self, stamp_ns: int) -> np.ndarray:
        """Centre (2,) [m] at a later stamp."""
        last = self.labels[-1].box
        velocity = np.nan_to_num(last[_VELOCITY])
        return np.asarray(last[:2] + velocity * (stamp_ns - self.stamp_ns) * 1e-9)


def _tracks_of_class(
    frames: Sequence[FrameBoxes], label: int, thresholds: np.ndarray, config: TrackConfig
) -> list[Track]:
    live: list[_Open] = []
    ended: list[_Open] = []
    for number, frame in enumerate(frames):
        rows = np.flatnonzero((frame.labels == label) & (frame.scores >= config.continues_at * thresholds[label]))
        gone = [track for track in live if (frame.stamp_ns - track.stamp_ns) * 1e-9 > config.max_gap]
        ended += gone
        live = [track for track in live if track not in gone]
        pairs = _pairs(live, frame, rows, config.max_distance)
        for track, row in pairs:
            track.labels.append(_label(frame, number, row))
            track.stamp_ns = frame.stamp_ns
        taken = {row for _, row in pairs}
        for row in rows:
            if row not in taken and frame.scores[row] >= thresholds[label]:
                live.append(_Open(frame.stamp_ns, [_label(frame, number, row)]))
    return [
        Track(label=label, labels=tuple(track.labels))
        for track in ended + live
        if len(track.labels) >= config.min_length
    ]


def _pairs(live: Sequence[_Open], frame: FrameBoxes, rows: np.ndarray, limit: float) -> list[tuple[_Open, int]]:
    """Tracks and the detections that continue them, nearest first."""
    if not live or not len(rows):
        return []
    expected = np.stack([track.expected(frame.stamp_ns) for track in live])
    distances = np.linalg.norm(expected[:, None] - frame.boxes[None, rows, :2], axis=-1)
    pairs: list[tuple[_Open, int]] = []
    while distances.min() <= limit:
        track, column = np.unravel_index(distances.argmin(), distances.shape)
        pairs.append((live[int(track)], int(rows[column])))
        distances[track, :] = distances[:, column] = np.inf
    return pairs


def _label(frame: FrameBoxes, number: int, row: int) -> Label:
    return Label(frame=number, box=frame.boxes[row], score=float(frame.scores[row]))


def _filled(track: Track, frames: Sequence[FrameBoxes]) -> Track:
    """The track with a label in every frame between two of its detections."""
    labels = [track.labels[0]]
    for before, after in zip(track.labels, track.labels[1:], strict=False):
        labels += [_between(before, after, number, frames) for number in range(before.frame + 1, after.frame)]
        labels.append(after)
    return Track(label=track.label, labels=tuple(labels))


def _between(before: Label, after: Label, number: int, frames: Sequence[FrameBoxes]) -> Label:
    """Where an object was between two of its labels, if it moved and turned evenly."""
    start, end, now = (frames[frame].stamp_ns for frame in (before.frame, after.frame, number))
    share = (now - start) / (end - start)
    box = np.empty(BOX_SIZE)
    box[:] = (1 - share) * before.box + share * after.box
    turn = (after.box[_YAW] - before.box[_YAW] + np.pi) % (2 * np.pi) - np.pi
    box[_YAW] = before.box[_YAW] + share * turn
    return Label(frame=number, box=box, score=min(before.score, after.score), is_filled=True)

"""What passes between the files of this room."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameBoxes:
    """Boxes of one key frame: detections or labels."""

    token: str  # of the sample
    stamp_ns: int
    boxes: np.ndarray  # (M, 9) float64, layout of core.boxes, global frame
    scores: np.ndarray  # (M,) float64 in [0, 1]
    labels: np.ndarray  # (M,) int64 into core.nuscenes.CLASS_NAMES

    def rows(self, chosen: np.ndarray | list[int]) -> Self:
        """Some of the boxes, by a mask or by their rows."""
        return replace(self, boxes=self.boxes[chosen], scores=self.scores[chosen], labels=self.labels[chosen])


@dataclass(frozen=True, kw_only=True)
class Label:
    """One box of a track in one key frame."""

    frame: int  # of its scene
    box: np.ndarray  # (9,) float64, global frame
    score: float  # of the detection; of a gap that was filled the lower one of its two ends
    is_filled: bool = False  # between two detections, where there is none


@dataclass(frozen=True, kw_only=True)
class Track:
    """An object over time: its labels in the order of frames."""

    label: int  # into core.nuscenes.CLASS_NAMES
    labels: tuple[Label, ...]

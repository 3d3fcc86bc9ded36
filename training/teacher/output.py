"""What every LiDAR teacher returns, ours or mmdet3d's."""

from dataclasses import dataclass

from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """A LiDAR detector's BEV maps and predictions in the ego frame, rows along y and columns along x (core.grid)."""

    finest: Tensor  # (B, C, rows, cols) finest FPN level, before the encoder
    encoded: Tensor | None  # (B, C, rows, cols) finest level after the encoder; None where the teacher has none
    grid: BevGrid  # of both maps
    predictions: SetPrediction | None  # None for a teacher without queries: only dense methods can use it

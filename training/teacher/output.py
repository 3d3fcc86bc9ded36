"""What every LiDAR teacher returns, ours or mmdet3d's."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.records import SetPrediction

Tap = Literal["auto", "encoded", "finest"]  # which of a teacher's maps; auto is encoded where there is one


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """A LiDAR detector's BEV maps and predictions in the ego frame, rows along y and columns along x (core.grid)."""

    finest: Tensor | None  # (B, C, rows, cols) finest FPN level, before the encoder; None where a cache left it out
    encoded: Tensor | None  # (B, C, rows, cols) finest level after the encoder; None where the teacher has none
    grid: BevGrid  # of both maps
    predictions: SetPrediction | None  # None for a teacher without queries: only dense methods can use it

    def map_of(self, tap: Tap = "auto") -> Tensor:
        """One of the maps (B, C, rows, cols).

        Raises:
            ValueError: The teacher has no such map.
        """
        if tap == "encoded" and self.encoded is None:
            raise ValueError("this teacher has no map after an encoder; set tap to finest or auto")
        chosen = self.finest if tap == "finest" or self.encoded is None else self.encoded
        assert chosen is not None, f"the cache was made without the map {tap}"
        return chosen

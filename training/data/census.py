"""Whether a split has boxes to learn from: how many there are, and why others are left out."""

import logging
from dataclasses import dataclass

import numpy as np
import torch

from bevdistill_ros.core.grid import BevGrid
from training.data.index.arrays import NuScenesIndex

FEW = 0.5  # share of the annotated boxes below which a warning says so
_NAMES_SHOWN = 5

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BoxCensus:
    """The annotated boxes of a split; each that is left out counts for its first reason."""

    learned: int
    ignored: int  # of no detection class
    off_grid: int  # the centre lies off the BEV grid
    too_few_points: int  # LiDAR points, fewer than augment.min_lidar_points

    @property
    def total(self) -> int:
        """All annotated boxes."""
        return self.learned + self.ignored + self.off_grid + self.too_few_points


def census_of(index: NuScenesIndex, split: str, grid: BevGrid, min_lidar_points: int) -> BoxCensus:
    """Count the boxes of a split, without augmentation.

    Raises:
        ValueError: There is no such split.
    """
    samples = index.samples_of(split)
    of_split = np.zeros(len(index), dtype=bool)
    of_split[samples] = True
    rows = np.repeat(of_split, np.diff(index.box_offsets))
    on_grid = grid.contains(torch.from_numpy(index.boxes[rows, :3])).numpy()
    enough = index.num_lidar_points[rows] >= min_lidar_points
    return BoxCensus(
        learned=int((on_grid & enough).sum()),
        ignored=int(index.ignored_boxes[samples].sum()),
        off_grid=int((~on_grid).sum()),
        too_few_points=int((on_grid & ~enough).sum()),
    )


def check_boxes(index: NuScenesIndex, split: str, grid: BevGrid, min_lidar_points: int) -> None:
    """Refuse to train on a split without boxes to learn from; warn where most of its boxes are left out.

    Raises:
        ValueError: No box is left, with the counts by reason and what to do about the largest.
    """
    census = census_of(index, split, grid, min_lidar_points)
    unlabelled = int((~index.annotated[index.samples_of(split)]).sum())
    if unlabelled:
        _LOG.info("%d frames of split '%s' are not labelled: only distillation learns from them", unlabelled, split)
    if not census.total:
        raise ValueError(
            f"split '{split}' of {index.root / index.version} has no annotated box; nothing can be learned "
            "without distillation (bevdistill label makes labels)"
        )
    names = ", ".join(name.decode() for name in index.ignored_categories[:_NAMES_SHOWN])
    more = ", ..." if len(index.ignored_categories) > _NAMES_SHOWN else ""
    reasons = {
        f"are of categories without a detection class ({names}{more}): rename them as in nuScenes": census.ignored,
        "lie off the BEV grid: check that boxes and ego poses share one frame, or widen the grid": census.off_grid,
        f"hold fewer than {min_lidar_points} LiDAR points: check num_lidar_pts, or lower augment.min_lidar_points": (
            census.too_few_points
        ),
    }
    largest = sorted(((count, words) for words, count in reasons.items() if count), reverse=True)
    listed = "; ".join(f"{count} {words}" for count, words in largest)
    if not census.learned:
        raise ValueError(f"none of the {census.total} annotated boxes of split '{split}' can be learned from: {listed}")
    if census.learned < FEW * census.total:
        _LOG.warning(
            "only %d of the %d annotated boxes of split '%s' are learned from: %s",
            *(census.learned, census.total, split, listed),
        )

"""Which samples each optimiser step sees: a pure function of seed and step, so that a resumed run sees the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from bevdistill_ros.core.nuscenes import NUM_CLASSES
from training.data.index.arrays import NuScenesIndex
from training.data.sample import Sample

Draw = tuple[int, int]  # index of a sample, and the seed of its augmentation


class SeededDataset(Dataset[Sample]):
    """A data set whose random augmentation depends on the draw alone, not on the worker that makes it."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self._dataset = dataset

    def __getitem__(self, draw: Draw) -> Sample:
        index, seed = draw
        torch.manual_seed(seed)
        return self._dataset[index]


class StepBatchSampler(Sampler[list[Draw]]):
    """Batches of draws for steps `first_step`...`steps - 1`; each pass over the data is a new seeded shuffle.

    Args:
        indices: What to draw from; an index that stands twice is drawn twice a pass (class-balanced sampling).
        batch_size: Samples of a batch on this rank.
        steps: Steps of the whole run.
        seed: Of the shuffles.
        first_step: Where a resumed run goes on.
        rank: This process.
        world_size: Number of processes; each takes its own part of the same shuffle.
        accumulate: Batches of a step on each rank, one after the other.
    """

    def __init__(
        self,
        indices: Sequence[int],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        first_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
    ) -> None:
        if not len(indices):
            raise ValueError("the training split holds no sample; check data.train_split")
        self._indices = np.asarray(indices)
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._first_step, self._rank, self._world_size, self._accumulate = first_step, rank, world_size, accumulate
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Batches of the whole run: Lightning counts those done before a resumption as fetched."""
        return self._steps * self._accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        for batch in range(self._first_step * self._accumulate, self._steps * self._accumulate):
            start = (batch * self._world_size + self._rank) * self._batch_size
            yield [self._draw(position) for position in range(start, start + self._batch_size)]

    def _draw(self, position: int) -> Draw:
        count = len(self._indices)
        index = int(self._indices[self._shuffle(position // count)[position % count]])
        return index, (self._seed * 1_000_003 + position) % 2**31

    def _shuffle(self, epoch: int) -> np.ndarray:
        if self._epoch != epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._indices))
        return self._order


def class_balanced_indices(index: NuScenesIndex, split: str, *, seed: int = 0) -> list[int]:
    """Positions in a split, drawn so that each class that occurs has the same share of the draws.

    Class-balanced sampling (CBGS, arXiv 1908.09492): a sample counts once for each class in it; the draws, as many as
    these counts in all, are shared out equally. Common classes are thinned out, rare ones repeated.

    Args:
        index: Of the database.
        split: Name of the split.
        seed: Of the draws.

    Returns:
        Positions for `NuScenesDataset(index, split, ...)`, grouped by class; shuffle them.
    """
    samples = index.samples_of(split)
    members = [
        np.array([position for position, number in enumerate(samples) if label in index.labels[index.boxes_of(number)]])
        for label in range(NUM_CLASSES)
    ]
    present = [positions for positions in members if len(positions)]
    if not present:
        raise ValueError(f"split '{split}' has no box of a detection class, so its samples cannot be balanced")
    share = sum(len(positions) for positions in present) // len(present)
    generator = np.random.default_rng(seed)
    return [int(position) for positions in present for position in np.resize(generator.permutation(positions), share)]

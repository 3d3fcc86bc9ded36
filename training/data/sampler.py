"""Which samples each optimiser step sees: a pure function of seed and step, so that a resumed run sees the same."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

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
        batch_size: Samples a step on this rank.
        steps: Steps of the whole run.
        seed: Of the shuffles.
        first_step: Where a resumed run goes on.
        rank: This process.
        world_size: Number of processes; each takes its own part of the same shuffle.
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
    ) -> None:
        if not len(indices):
            raise ValueError("the training split holds no sample; check data.train_split")
        self._indices = np.asarray(indices)
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._first_step, self._rank, self._world_size = first_step, rank, world_size
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Steps of the whole run: Lightning counts those done before a resumption as fetched."""
        return self._steps

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self._first_step, self._steps):
            start = (step * self._world_size + self._rank) * self._batch_size
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

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from training.data.sampler import Draw, SeededDataset, StepBatchSampler


class Noise(Dataset[float]):
    """Items whose value is random, as an augmented sample's is."""

    def __getitem__(self, index: int) -> float:
        return index + float(torch.rand(()))


def draws(count: int = 5, **changes: int) -> list[list[Draw]]:
    settings = {"batch_size": 2, "steps": 10, "seed": 3, **changes}
    return list(StepBatchSampler(range(count), **settings))


def test_each_pass_draws_each_sample_once() -> None:
    indices = [index for batch in draws() for index, _ in batch]
    passes = [indices[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(entry) == [0, 1, 2, 3, 4] for entry in passes)
    assert len({tuple(entry) for entry in passes}) > 1


def test_seed_changes_order_and_augmentation() -> None:
    assert draws() == draws()
    assert [index for batch in draws() for index, _ in batch] != [i for batch in draws(seed=4) for i, _ in batch]
    seeds = [seed for batch in draws() for _, seed in batch]
    assert len(set(seeds)) == len(seeds)
    assert not set(seeds) & {seed for batch in draws(seed=4) for _, seed in batch}


@pytest.mark.parametrize("first_step", [0, 1, 3, 9, 10])
def test_resumed_run_draws_what_was_left(first_step: int) -> None:
    assert draws(first_step=first_step) == draws()[first_step:]


def test_length_counts_the_steps_that_were_done_before() -> None:
    assert len(StepBatchSampler(range(5), batch_size=2, steps=10, seed=0, first_step=4)) == 10


def test_processes_share_one_shuffle() -> None:
    whole = draws(batch_size=4)
    parts = [draws(batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    assert [first + second for first, second in zip(*parts, strict=True)] == whole


def test_index_that_stands_twice_is_drawn_twice() -> None:
    sampler = StepBatchSampler([7, 7, 8], batch_size=3, steps=2, seed=0)
    assert Counter(index for batch in sampler for index, _ in batch) == {7: 4, 8: 2}


def test_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="the training split holds no sample"):
        draws(count=0)


def test_augmentation_depends_on_the_draw_alone() -> None:
    """Neither on the worker that makes it, nor on what was drawn before."""
    dataset = SeededDataset(Noise())  # type: ignore[arg-type]
    sampler = StepBatchSampler(range(5), batch_size=2, steps=4, seed=3)
    here = [dataset[draw] for batch in sampler for draw in batch]
    loaded = DataLoader(dataset, batch_sampler=sampler, num_workers=2)
    assert torch.tensor(here).float().allclose(torch.cat(list(loaded)).float(), atol=0.0, rtol=0.0)
    torch.rand(7)
    assert dataset[next(iter(sampler))[0]] == here[0]

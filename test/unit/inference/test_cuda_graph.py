"""A replayed function answers as the function does, or is not replayed; with a capture that a CPU can do."""

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bevdistill_ros.inference.engines.cuda_graph import Graph, Replayed

CPU = torch.device("cpu")


class FakeGraph:
    """Does the work again into the memory of the first answers, as a CUDA graph does."""

    def __init__(self, inputs: list[Tensor], outputs: list[Tensor], factor: float = 1.0) -> None:
        self.inputs, self.outputs, self.factor = inputs, outputs, factor

    def replay(self) -> None:
        for found, value in zip(self.outputs, work(*self.inputs), strict=True):
            found.copy_(value * self.factor)


def work(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return first + second, first * 2


def captures(counts: list[int], factor: float = 1.0) -> tuple[Callable[..., tuple[Tensor, ...]], Callable[..., Graph]]:
    seen: list[list[Tensor]] = []

    def watched(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = work(*inputs)
        seen.append([*inputs, *outputs])
        return outputs

    def capture(run: Callable[[], None]) -> Graph:
        counts.append(1)
        run()
        return FakeGraph(seen[-1][:2], seen[-1][2:], factor)

    return watched, capture


def test_it_is_captured_once_for_the_same_shapes() -> None:
    counts: list[int] = []
    watched, capture = captures(counts)
    replayed = Replayed(watched, CPU, capture)
    answers = []
    for number in range(3):
        given = {"first": torch.full((2,), float(number)), "second": torch.ones(2)}
        answers.append((replayed(given), work(*given.values())))
    assert len(counts) == 1
    for found, expected in answers:  # of all calls, so none was overwritten by a later one
        torch.testing.assert_close(found, expected)
    wider = {"first": torch.ones(3), "second": torch.ones(3)}
    torch.testing.assert_close(replayed(wider), work(*wider.values()))
    assert len(counts) == 2


def test_a_graph_that_miscomputes_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    watched, capture = captures([], factor=1.01)
    given = {"first": torch.ones(2), "second": torch.ones(2)}
    with caplog.at_level(logging.WARNING):
        found = Replayed(watched, CPU, capture)(given)
    torch.testing.assert_close(found, work(*given.values()))
    assert "its answer is off by 0.01 of the largest value" in caplog.text


def test_where_nothing_can_be_captured_it_runs_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    def capture(run: Callable[[], None]) -> Graph:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    given = {"first": torch.ones(2), "second": torch.ones(2)}
    replayed = Replayed(work, CPU, capture)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            torch.testing.assert_close(replayed(given), work(*given.values()))
    assert caplog.text.count("runs without a CUDA graph: operation not permitted") == 1
    assert "more" not in caplog.text

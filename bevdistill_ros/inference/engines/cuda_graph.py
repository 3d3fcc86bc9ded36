"""A network captured once as a CUDA graph and replayed: one launch a frame in place of thousands."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

Function = Callable[..., Sequence[Tensor]]  # of tensors on the device
_WARM_UP = 3  # runs before the capture, in which libraries choose their kernels and take their memory
_TOLERANCE = 1e-3  # between the first replay and the function itself, in parts of the largest value
_LOG = logging.getLogger(__name__)


class Graph(Protocol):
    """What has been captured."""

    def replay(self) -> None:
        """Do it again, with what now lies in the inputs."""


Capture = Callable[[Callable[[], None]], Graph]


class Replayed:
    """A function of tensors that is captured for the shapes of its inputs; where that fails, it is called as ever.

    Args:
        function: Of tensors on the device, without a wait for the device.
        device: Where it runs.
        capture: Runs work and keeps what it launched.
    """

    def __init__(self, function: Function, device: torch.device, capture: Capture | None = None) -> None:
        self._function, self._device = function, device
        self._capture_of = capture or _cuda_capture
        self._shapes: tuple[object, ...] = ()
        self._inputs: list[Tensor] = []
        self._outputs: Sequence[Tensor] = ()
        self._graph: Graph | None = None

    @property
    def is_captured(self) -> bool:
        """Whether the last call was a replay."""
        return self._graph is not None

    def __call__(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The function's answer to inputs by name, in the order of its arguments, on any device."""
        shapes = tuple((name, value.shape, value.dtype) for name, value in inputs.items())
        if shapes != self._shapes:
            self._prepare(inputs)
            self._shapes = shapes
        for own, value in zip(self._inputs, inputs.values(), strict=True):
            own.copy_(value, non_blocking=True)
        if self._graph is None:
            return tuple(self._function(*self._inputs))
        self._graph.replay()
        return tuple(output.clone() for output in self._outputs)  # the next replay writes into the same memory

    def _prepare(self, inputs: Mapping[str, Tensor]) -> None:
        self._inputs = [value.to(self._device, copy=True) for value in inputs.values()]
        self._graph = None
        try:
            graph = self._capture_of(self._run)
            self._check(graph)
        except RuntimeError as error:
            _LOG.warning("the network runs without a CUDA graph: %s", str(error).strip().splitlines()[0])
            return
        self._graph = graph

    def _run(self) -> None:
        self._outputs = self._function(*self._inputs)

    def _check(self, graph: Graph) -> None:
        """Raise RuntimeError where a replay answers something else than the function."""
        expected = [value.clone() for value in self._function(*self._inputs)]
        graph.replay()
        for found, value in zip(self._outputs, expected, strict=True):
            difference = float((found - value).abs().max() / value.abs().max().clamp(min=1e-6))
            if not difference <= _TOLERANCE:
                raise RuntimeError(f"its answer is off by {difference:.2g} of the largest value")


def _cuda_capture(work: Callable[[], None]) -> Graph:
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    context: AbstractContextManager[None] = torch.cuda.graph(graph)
    with context:
        work()
    return graph

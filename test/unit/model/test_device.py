"""Device behaviour without a GPU: the network runs on the meta device, as it would on any device that is not the CPU.

Meta tensors have shapes but no values. A mix with tensors of the host is an error, as is everything that would wait
for a value or copy one to the host; copies from the host are counted.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bevdistill_ros.model import layers
from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.records import BevMemory, CameraInput, StudentOutput


class Copies(TorchFunctionMode):
    """Counts copies from the host to the device; each waits for the device, as the host's memory is not pinned."""

    FROM_VALUES = (Tensor.new_tensor, torch.tensor, torch.as_tensor)

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._copies(func, args, result):
            self.found.append(getattr(func, "__name__", str(func)))
        return result

    def _copies(self, func: Any, args: Any, result: Any) -> bool:
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            return any(isinstance(entry, (list, tuple)) for entry in index)
        if func in self.FROM_VALUES:
            return True
        is_on_host = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "cpu"
        return is_on_host and isinstance(result, Tensor) and result.device.type == "meta"


def run(student: BevFormer, cameras: CameraInput, past: BevMemory | None) -> tuple[StudentOutput, list[str]]:
    """The network on the meta device, and the copies that it made from the host."""
    geometry = student.geometry.of(cameras, past).to("meta")
    images, bev = cameras.images.to("meta"), past.bev.to("meta") if past else None
    student = student.to("meta")
    with Copies() as copies:
        return student.network(images, geometry, bev), copies.found


def past_of(make_cameras: Callable[..., CameraInput], batch: int) -> BevMemory:
    return BevMemory(
        bev=torch.randn(batch, 16, 8, 12),
        global_from_ego=make_cameras(batch, seed=1).global_from_ego,
        present=torch.ones(batch, dtype=torch.bool),
    )


@pytest.mark.parametrize("changes", [{}, {"query_selection": "heatmap"}, {"backbone_norm": "frozen"}], ids=str)
@pytest.mark.parametrize("temporal", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_network_stays_on_its_device_and_never_waits(
    changes: dict[str, object],
    temporal: bool,
    training: bool,
    make_student: Callable[..., BevFormer],
    make_cameras: Callable[..., CameraInput],
) -> None:
    student = make_student(temporal=temporal, **changes).train(training)
    output, copies = run(student, make_cameras(2), past_of(make_cameras, 2) if temporal else None)
    assert output.bev.device.type == output.predictions.codes.device.type == "meta"
    assert copies == []


@pytest.mark.parametrize(
    "plant",
    [
        lambda self, tokens: tokens + torch.ones(16),
        lambda self, tokens: tokens.cpu(),
        lambda self, tokens: tokens * float(tokens.max()),
        lambda self, tokens: tokens[tokens > 0].sum() + tokens,
    ],
    ids=["host tensor", "copy to the host", "value", "mask"],
)
def test_what_does_not_belong_there_is_found(
    plant: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    make_student: Callable[..., BevFormer],
    make_cameras: Callable[..., CameraInput],
) -> None:
    monkeypatch.setattr(layers.FeedForward, "forward", plant)
    with pytest.raises((RuntimeError, NotImplementedError)):
        run(make_student(), make_cameras(1), None)


@pytest.mark.parametrize(
    "plant",
    [lambda self, tokens: tokens * tokens.new_tensor([2.0]), lambda self, tokens: tokens[..., [*range(16)]]],
    ids=["constant", "list of columns"],
)
def test_a_copy_from_the_host_is_counted(
    plant: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    make_student: Callable[..., BevFormer],
    make_cameras: Callable[..., CameraInput],
) -> None:
    monkeypatch.setattr(layers.FeedForward, "forward", plant)
    _, copies = run(make_student(), make_cameras(1), None)
    assert len(copies) >= 2 + 2  # in two encoder and two decoder layers

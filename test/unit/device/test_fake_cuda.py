"""The fake device refuses what CUDA refuses, takes what CUDA takes, and counts what waits."""

from collections.abc import Callable

import pytest
import torch
from fake_cuda import DeviceMismatchError, FakeCuda
from torch import Tensor, nn
from torch.nn import functional

Operation = Callable[[Tensor, Tensor], object]


def tensors() -> tuple[Tensor, Tensor]:
    """A 3 x 4 tensor on the device and the same on the host."""
    host = torch.arange(12.0).reshape(3, 4)
    return host.to("cuda"), host


@pytest.mark.parametrize(
    "operation",
    [
        lambda there, here: there + here,
        lambda there, here: here * there,
        lambda there, here: there @ here.T,
        lambda there, here: torch.cat([there, here]),
        lambda there, here: torch.stack([there.sum(), here.sum()]),  # not elementwise, so no scalars of the host
        lambda there, here: functional.linear(there, here),
        lambda there, here: torch.where(there > 0, there, here),
        lambda there, here: there.add_(here),
        lambda there, here: here[there.long().flatten() % 3],
        lambda there, here: there.index_select(0, torch.tensor([0, 1])),
        lambda there, here: there.gather(0, torch.zeros(3, 4, dtype=torch.int64)),
        lambda there, here: there.__setitem__(torch.tensor([0]), here[:1]),
        lambda there, here: functional.grid_sample(there[None, None], torch.zeros(1, 2, 2, 2), align_corners=False),
        lambda there, here: nn.Conv2d(1, 1, 1)(there[None]),
        lambda there, here: functional.batch_norm(there, torch.zeros(4), torch.ones(4)),
    ],
)
def test_a_mix_of_devices_is_refused(operation: Operation) -> None:
    with FakeCuda(), pytest.raises(RuntimeError):
        operation(*tensors())


def test_numpy_is_refused() -> None:
    with FakeCuda():
        there, _ = tensors()
        with pytest.raises(TypeError, match="cuda:0"):
            there.numpy()


@pytest.mark.parametrize(
    "operation",
    [
        lambda there, here: there + here.sum(),  # scalars of the host
        lambda there, here: here.sum() * there,
        lambda there, here: torch.where(there > 0, there, torch.tensor(0.0)),
        lambda there, here: there.clamp(max=torch.tensor(2.0)),
        lambda there, here: there.masked_fill(there > 2, 0.0),
        lambda there, here: there.__setitem__(there > 2, 0.0),
        lambda there, here: there.__setitem__((slice(None), 0), 1.0),
        lambda there, here: torch.arange(3, device=there.device)[:, None] + there,
        lambda there, here: there[torch.arange(2, device="cuda:0")],
        lambda there, here: there.new_zeros(2) + there.new_full((2,), 3.0) + torch.ones(2, device=torch.device("cuda")),
        lambda there, here: functional.scaled_dot_product_attention(there[None], there[None], there[None]),
        lambda there, here: torch.cdist(there, there).topk(2).values.sort().indices,
        lambda there, here: torch.repeat_interleave(there, 2, dim=0),
        lambda there, here: functional.one_hot(there.long(), 12),
    ],
)
def test_what_cuda_takes_passes_without_a_wait(operation: Operation) -> None:
    with FakeCuda() as device:
        there, here = tensors()
        with device.counted() as waits:
            operation(there, here)
        assert waits == []


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda there, here: there.sum().item(), "_local_scalar_dense"),
        (lambda there, here: bool((there > 0).any()), "_local_scalar_dense"),
        (lambda there, here: float(there.max()), "_local_scalar_dense"),
        (lambda there, here: there.tolist(), "tolist"),
        (lambda there, here: there.cpu(), "copy to the host"),
        (lambda there, here: here.copy_(there), "copy to the host"),
        (lambda there, here: here.to("cuda"), "copy from the host"),
        (lambda there, here: here.cuda(non_blocking=True), "copy from the host"),  # of memory that is not pinned
        (lambda there, here: here.pin_memory().to("cuda"), "copy from the host"),
        (lambda there, here: there.copy_(here), "copy from the host"),
        (lambda there, here: there.nonzero(), "nonzero"),
        (lambda there, here: torch.where(there > 0), "nonzero"),
        (lambda there, here: there[there > 2], "index by a mask"),
        (lambda there, here: there.__setitem__(there > 2, there[:1, :1]), "index by a mask"),
        (lambda there, here: there[..., [0, 2]], "copy of an index from the host"),
        (lambda there, here: there[torch.tensor([0, 2])], "copy of an index from the host"),
        (lambda there, here: there.new_tensor([1.0, 2.0]), "tensor of Python values"),
        (lambda there, here: torch.tensor([1.0], device=there.device), "tensor of Python values"),
        (lambda there, here: torch.as_tensor(2, device="cuda"), "tensor of Python values"),
        (lambda there, here: torch.equal(there, there), "equal"),
        (lambda there, here: there.unique(), "_unique2"),
        (lambda there, here: there.flatten().unique_consecutive(), "unique_consecutive"),
        (lambda there, here: there.repeat_interleave(there[:, 1].long(), dim=0), "repeat_interleave"),
        (lambda there, here: torch.masked_select(there, there > 2), "masked_select"),
        (lambda there, here: torch.linalg.inv(torch.eye(3, device="cuda")), "_linalg_check_errors"),
        (lambda there, here: torch.cuda.synchronize(), "torch.cuda.synchronize"),
    ],
)
def test_a_wait_is_counted(operation: Operation, expected: str) -> None:
    with FakeCuda() as device:
        there, here = tensors()
        with device.counted() as waits:
            operation(there, here)
        assert expected in {wait.operation for wait in waits}


def test_a_copy_from_pinned_memory_does_not_wait() -> None:
    with FakeCuda() as device:
        pinned = torch.ones(3).pin_memory()
        assert pinned.is_pinned()
        assert not torch.ones(3).is_pinned()
        with device.counted() as waits:
            there = pinned.to("cuda", non_blocking=True)
        assert there.device == torch.device("cuda:0")
        assert waits == []


def test_values_and_gradients_are_those_of_the_cpu() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    expected = layers(images).square().sum()
    (gradient,) = torch.autograd.grad(expected, images)
    with FakeCuda():
        there = images.detach().to("cuda").requires_grad_()
        layers.to("cuda")
        assert {parameter.device.type for parameter in layers.parameters()} == {"cuda"}
        found = layers(there).square().sum()
        found.backward()
        assert there.grad is not None
        assert next(layers.parameters()).grad is not None
        torch.testing.assert_close(found.cpu(), expected)
        torch.testing.assert_close(there.grad.cpu(), gradient)


def test_outside_of_it_its_tensors_are_refused() -> None:
    with FakeCuda():
        there, _ = tensors()
    with pytest.raises(RuntimeError, match="outside of FakeCuda"):
        there + there
    with pytest.raises((RuntimeError, AssertionError)):
        torch.ones(1).to("cuda")


def test_mixes_are_named() -> None:
    with FakeCuda():
        there, here = tensors()
        with pytest.raises(DeviceMismatchError, match=r"found cuda:0 and cpu \(3, 4\)"):
            there + here

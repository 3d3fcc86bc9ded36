"""What saves memory or time in training must not change what is learned."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.records import BevMemory, CameraInput

LITE0 = {"backbone": "efficientnet_lite0", "backbone_width": 64, "num_levels": 3}


def step(student: BevFormer, cameras: CameraInput, past: BevMemory | None = None) -> Tensor:
    """Loss of a training step, after its backward pass; dropout is the same every time."""
    torch.manual_seed(3)
    output = student.train()(cameras, past)
    loss: Tensor = output.predictions.logits.square().mean() + output.predictions.codes.square().mean()
    loss.backward()
    return loss.detach()


def gradients(student: BevFormer) -> dict[str, Tensor]:
    return {name: entry.grad for name, entry in student.named_parameters() if entry.grad is not None}


def flat_gradient(student: BevFormer) -> Tensor:
    return torch.cat([entry.flatten() for entry in gradients(student).values()])


@pytest.fixture
def past(make_cameras: Callable[..., CameraInput]) -> BevMemory:
    generator = torch.Generator().manual_seed(5)
    return BevMemory(
        bev=torch.randn(2, 16, 8, 12, generator=generator),
        global_from_ego=make_cameras(2, seed=1).global_from_ego,
        present=torch.tensor([True, False]),
    )


@pytest.mark.parametrize("changes", [{"temporal": True, "dropout": 0.2}, {"frozen_stages": 1}, LITE0])
def test_recomputed_activations_give_the_same(
    changes: dict[str, object],
    make_student: Callable[..., BevFormer],
    make_cameras: Callable[..., CameraInput],
    past: BevMemory,
) -> None:
    plain = make_student(**changes)
    saving = copy.deepcopy(plain)
    saving.recompute_activations()
    history = past if "temporal" in changes else None
    assert torch.equal(step(plain, make_cameras(2), history), step(saving, make_cameras(2), history))
    expected = gradients(plain)
    assert gradients(saving).keys() == expected.keys()
    for name, value in gradients(saving).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    # Running statistics of batch norms among them: a batch must not count twice.
    state = plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in saving.state_dict().items())


def test_recomputed_activations_are_not_kept(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    kept = []
    for saves in (False, True):
        student, sizes = make_student(), []
        if saves:
            student.recompute_activations()

        def keep(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            student.train()(make_cameras(2))
        kept.append(sum(sizes))
    assert kept[1] < 0.5 * kept[0]


def test_channels_last_gives_the_same(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    """Of a backbone without 1x1 convolutions of stride 2, whose backward pass can damage memory on a CPU."""
    plain = make_student(**LITE0)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    convolutions = [entry for entry in other.backbone.modules() if isinstance(entry, torch.nn.Conv2d)]
    assert all(entry.weight.is_contiguous(memory_format=torch.channels_last) for entry in convolutions)
    torch.testing.assert_close(step(other, make_cameras(2)), step(plain, make_cameras(2)), atol=1e-5, rtol=1e-5)
    ours, theirs = flat_gradient(other), flat_gradient(plain)
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.9999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("saves", [False, True])
def test_a_mixed_precision_step_stays_near_full_precision(
    dtype: torch.dtype,
    saves: bool,
    make_student: Callable[..., BevFormer],
    make_cameras: Callable[..., CameraInput],
    past: BevMemory,
) -> None:
    full = make_student(temporal=True)
    half = copy.deepcopy(full)
    if saves:
        half.recompute_activations()
    expected = step(full, make_cameras(2), past)
    with torch.autocast("cpu", dtype=dtype):
        found = step(half, make_cameras(2), past)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=0.05)
    ours, theirs = flat_gradient(half), flat_gradient(full)
    assert bool(torch.isfinite(ours).all())
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.98

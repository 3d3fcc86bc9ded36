from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.config import IMAGE_MEAN, IMAGE_STD, StudentConfig
from bevdistill_ros.model.records import BevMemory, CameraInput, StudentOutput


def item_of(cameras: CameraInput, item: int) -> CameraInput:
    one = slice(item, item + 1)
    return CameraInput(
        images=cameras.images[one],
        image_from_ego=cameras.image_from_ego[one],
        valid=cameras.valid[one],
        global_from_ego=cameras.global_from_ego[one],
    )


def assert_same(first: StudentOutput, second: StudentOutput) -> None:
    torch.testing.assert_close(first.bev, second.bev, atol=1e-5, rtol=1e-5)
    for name in ("logits", "codes", "features"):
        torch.testing.assert_close(
            getattr(first.predictions, name), getattr(second.predictions, name), atol=2e-5, rtol=1e-5
        )


def one_of(output: StudentOutput, item: int) -> StudentOutput:
    one = slice(item, item + 1)
    predictions = replace(
        output.predictions,
        **{name: getattr(output.predictions, name)[:, one] for name in ("logits", "codes", "features")},
    )
    return StudentOutput(bev=output.bev[one], predictions=predictions)


def memory_from(bev: Tensor, cameras: CameraInput, present: list[bool]) -> BevMemory:
    return BevMemory(bev=bev, global_from_ego=cameras.global_from_ego, present=torch.tensor(present))


def test_shapes_and_types(make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]) -> None:
    output = make_student()(make_cameras(2))
    assert output.bev.shape == (2, 16, 8, 12)
    assert output.predictions.logits.shape == (2, 2, 12, 10)
    assert output.predictions.codes.shape == (2, 2, 12, 10)
    assert output.predictions.features.shape == (2, 2, 12, 16)
    assert {output.bev.dtype, output.predictions.logits.dtype, output.predictions.codes.dtype} == {torch.float32}


@pytest.mark.parametrize("temporal", [False, True])
def test_batch_of_two_is_two_batches_of_one(
    temporal: bool, make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(temporal=temporal), make_cameras(2)
    cameras.valid[1, 0] = False
    past = memory_from(torch.randn(2, 16, 8, 12), make_cameras(2, seed=1), [True, True]) if temporal else None
    both = student(cameras, past)
    for item in range(2):
        one = slice(item, item + 1)
        alone_past = past and BevMemory(
            bev=past.bev[one], global_from_ego=past.global_from_ego[one], present=past.present[one]
        )
        assert_same(one_of(both, item), student(item_of(cameras, item), alone_past))


def test_the_order_of_the_cameras_does_not_matter(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(), make_cameras(2)
    cameras.valid[1, 2] = False
    order = [2, 0, 1]
    shuffled = replace(
        cameras,
        images=cameras.images[:, order],
        image_from_ego=cameras.image_from_ego[:, order],
        valid=cameras.valid[:, order],
    )
    assert_same(student(cameras), student(shuffled))


def test_a_missing_camera_contributes_nothing(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(), make_cameras(1)
    seen = student(cameras)
    cameras.valid[0, 1] = False
    blind = student(cameras)
    cameras.images[0, 1] = 255 - cameras.images[0, 1]
    assert_same(student(cameras), blind)
    assert not torch.allclose(seen.bev, blind.bev, atol=1e-2)


def test_a_frame_without_any_camera_is_finite(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    cameras = make_cameras(1)
    cameras.valid[:] = False
    output = make_student()(cameras)
    assert bool(torch.isfinite(output.bev).all())
    assert bool(torch.isfinite(output.predictions.codes).all())


@pytest.mark.parametrize("temporal", [False, True])
def test_every_trained_parameter_gets_a_gradient(
    temporal: bool, make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student = make_student(temporal=temporal, num_levels=4).train()
    past = memory_from(torch.randn(2, 16, 8, 12), make_cameras(2, seed=1), [True, True]) if temporal else None
    output = student(make_cameras(2), past)
    (output.predictions.logits.square().sum() + output.predictions.codes.square().sum()).backward()
    assert [name for name, entry in student.named_parameters() if entry.grad is None or not entry.grad.any()] == []


def test_frozen_parts_are_not_trained(make_student: Callable[..., BevFormer]) -> None:
    student = make_student(backbone_norm="frozen", frozen_stages=1)
    fixed = {name for name, entry in student.named_parameters() if not entry.requires_grad}
    assert "backbone.conv1.weight" in fixed
    assert "backbone.layer1.0.conv1.weight" in fixed
    assert "backbone.layer2.0.bn1.weight" in fixed
    assert all(name.startswith("backbone.") for name in fixed)


def test_the_images_are_normalised_inside(make_student: Callable[..., BevFormer]) -> None:
    student = make_student()
    images = torch.tensor(IMAGE_MEAN).round().to(torch.uint8).reshape(1, 1, 3, 1, 1).repeat(1, 3, 1, 32, 64)
    normalised = student._normalised(images)
    assert normalised.shape == (3, 3, 32, 64)
    assert float(normalised.abs().max()) < 0.6 / min(IMAGE_STD)
    bright = student._normalised(torch.full((1, 1, 3, 1, 1), 255, dtype=torch.uint8))
    expected = [(255 - mean) / std for mean, std in zip(IMAGE_MEAN, IMAGE_STD, strict=True)]
    assert bright.flatten().tolist() == pytest.approx(expected, abs=1e-5)
    other = make_student(backbone="efficientnet_lite0", backbone_width=64)
    assert other._normalised(images[:, :, :, :1, :1] * 0 + 191).unique().tolist() == [0.5]


def test_the_state_is_that_of_the_plain_student(make_student: Callable[..., BevFormer]) -> None:
    roots = {name.split(".")[0] for name in make_student().state_dict()}
    assert roots == {"backbone", "pyramid", "encoder", "decoder"}


def test_encode_is_the_bev_of_forward(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(), make_cameras(1)
    torch.testing.assert_close(student.encode(cameras), student(cameras).bev)


def test_inputs_are_not_changed(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    cameras, fresh = make_cameras(2), make_cameras(2)
    past = memory_from(torch.randn(2, 16, 8, 12), make_cameras(2, seed=1), [True, False])
    bev = past.bev.clone()
    make_student(temporal=True)(cameras, past)
    for name in ("images", "image_from_ego", "valid", "global_from_ego"):
        assert torch.equal(getattr(cameras, name), getattr(fresh, name))
    assert torch.equal(past.bev, bev)


@torch.no_grad()
def test_half_precision_stays_near_full_precision(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(temporal=True), make_cameras(1)
    past = memory_from(torch.randn(1, 16, 8, 12), make_cameras(1, seed=1), [True])
    full = student(cameras, past)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = student(cameras, past)
    assert half.bev.dtype == half.predictions.codes.dtype == half.predictions.features.dtype == torch.float32
    assert float((half.bev - full.bev).abs().mean()) < 0.05 * float(full.bev.abs().mean())


def test_images_of_another_size_are_refused(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    with pytest.raises(ValueError, match=r"takes uint8 images \(B, 3, 3, 32, 64\)"):
        make_student()(make_cameras(1, height=64, width=64))


def test_a_tiny_student_can_learn_one_frame(
    make_config: Callable[..., StudentConfig], make_cameras: Callable[..., CameraInput]
) -> None:
    """It must be able to put one query's box on a target and raise its score."""
    torch.manual_seed(0)
    student, cameras = BevFormer(make_config(num_queries=4)).train(), make_cameras(1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-2)
    target = torch.tensor([5.0, 2.0, 0.5, 1.4, 1.0, 0.4, 0.8, 0.6, 3.0, -1.0])
    losses = []
    for _ in range(30):
        predictions = student(cameras).predictions
        box = (predictions.codes[:, 0, 0] - target).abs().mean()
        score = torch.nn.functional.binary_cross_entropy_with_logits(predictions.logits[:, 0, 0, 0], torch.ones(2))
        loss = box + score
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.gpu
def test_a_gpu_gives_the_same_answer(
    make_student: Callable[..., BevFormer], make_cameras: Callable[..., CameraInput]
) -> None:
    student, cameras = make_student(temporal=True), make_cameras(2)
    past = memory_from(torch.randn(2, 16, 8, 12), make_cameras(2, seed=1), [True, False])
    on_cpu = student(cameras, past)
    moved = BevMemory(bev=past.bev.cuda(), global_from_ego=past.global_from_ego.cuda(), present=past.present.cuda())
    on_gpu = student.cuda()(cameras.to("cuda"), moved)
    torch.testing.assert_close(on_gpu.bev.cpu(), on_cpu.bev, atol=2e-3, rtol=1e-3)

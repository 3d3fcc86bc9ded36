from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.records import CameraFrame, Detections
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines.reference import capacity_of
from bevdistill_ros.inference.engines.torch_engine import TorchNetwork
from bevdistill_ros.inference.temporal_memory import MemoryLimits
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.records import BevMemory, CameraInput

Frames = Callable[..., CameraFrame]
Bundles = Callable[..., Bundle]


def input_of(frame: CameraFrame) -> CameraInput:
    return CameraInput(
        images=frame.images[None],
        image_from_ego=frame.rig.image_from_ego().float()[None],
        valid=frame.valid[None],
        global_from_ego=frame.global_from_ego[None],
    )


def assert_same(first: Detections, second: Detections) -> None:
    assert first.stamp_ns == second.stamp_ns
    torch.testing.assert_close(first.boxes, second.boxes, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(first.scores, second.scores)
    assert torch.equal(first.labels, second.labels)


def test_detections_are_those_of_the_student(make_bundle: Bundles, make_frame: Frames) -> None:
    bundle, frame = make_bundle(), make_frame()
    with torch.no_grad():
        output = bundle.student(input_of(frame))
    expected = detections_from(output.predictions, [frame.stamp_ns], max_detections=7, grid=bundle.manifest.grid)[0]
    found = Engine(bundle, EngineChoice(device="cpu"), max_detections=7).infer(frame)
    assert len(found.scores) == 7
    assert bool((found.scores.diff() <= 0).all())
    assert_same(found, expected)


def test_the_stages_are_timed(make_bundle: Bundles, make_frame: Frames) -> None:
    engine = Engine(make_bundle(), EngineChoice(device="cpu"))
    engine.infer(make_frame())
    assert list(engine.stage_ms) == ["preprocess", "inference", "postprocess"]
    assert all(value > 0 for value in engine.stage_ms.values())


def test_the_score_threshold_can_change(make_bundle: Bundles, make_frame: Frames) -> None:
    engine, frame = Engine(make_bundle(), EngineChoice(device="cpu")), make_frame()
    scores = engine.infer(frame).scores
    engine.score_threshold = float(scores[4])
    assert torch.equal(engine.infer(frame).scores, scores[:5])


def test_cameras_are_found_by_name(make_bundle: Bundles, make_frame: Frames) -> None:
    """A frame with the cameras in another order, and with one more."""
    engine, frame = Engine(make_bundle(), EngineChoice(device="cpu")), make_frame(valid=torch.tensor([True, False]))
    wide = replace(
        frame.rig,
        names=("BACK", "ROOF", "FRONT"),
        intrinsics=frame.rig.intrinsics[[1, 1, 0]],
        ego_from_camera=frame.rig.ego_from_camera[[1, 1, 0]],
    )
    shuffled = replace(frame, rig=wide, images=frame.images[[1, 1, 0]], valid=torch.tensor([False, True, True]))
    assert_same(engine.infer(shuffled), engine.infer(frame))


def test_a_missing_camera_by_name_is_refused(make_bundle: Bundles, make_frame: Frames) -> None:
    frame = make_frame()
    renamed = replace(frame, rig=replace(frame.rig, names=("FRONT", "REAR")))
    with pytest.raises(ValueError, match="no camera BACK; it has FRONT, REAR"):
        Engine(make_bundle(), EngineChoice(device="cpu")).infer(renamed)


def test_images_of_another_size_are_refused(make_bundle: Bundles, make_frame: Frames) -> None:
    frame = make_frame()
    small = replace(frame, rig=replace(frame.rig, image_size=(16, 32)), images=frame.images[..., ::2, ::2])
    with pytest.raises(ValueError, match="takes images of 64x32, but got 32x16"):
        Engine(make_bundle(), EngineChoice(device="cpu")).infer(small)


def test_the_past_of_a_temporal_student_is_used(make_bundle: Bundles, make_frame: Frames) -> None:
    bundle = make_bundle(temporal=True)
    engine, first, second = Engine(bundle, EngineChoice(device="cpu")), make_frame(0.0), make_frame(0.5)
    engine.infer(first)
    found = engine.infer(second)
    with torch.no_grad():
        bev = bundle.student.encode(input_of(first))
        past = BevMemory(bev=bev, global_from_ego=first.global_from_ego[None], present=torch.tensor([True]))
        output = bundle.student(input_of(second), past)
        alone = bundle.student(input_of(second))
    expected = detections_from(output.predictions, [second.stamp_ns], grid=bundle.manifest.grid)[0]
    assert_same(found, expected)
    assert not torch.allclose(output.bev, alone.bev, atol=1e-3)


def test_an_answer_that_is_not_finite_is_no_answer_and_is_not_remembered(
    make_bundle: Bundles, make_frame: Frames
) -> None:
    bundle = make_bundle(temporal=True)
    engine = Engine(bundle, EngineChoice(device="cpu"))
    first, second = make_frame(0), make_frame(1)
    expected = Engine(make_bundle(temporal=True), EngineChoice(device="cpu")).infer(second)
    weight = next(bundle.student.backbone.parameters())
    kept = weight.clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the network's answer is not finite"):
        engine.infer(first)
    with torch.no_grad():
        weight.copy_(kept)
    assert_same(engine.infer(second), expected)


def test_reset_forgets_the_past(make_bundle: Bundles, make_frame: Frames) -> None:
    engine, fresh = (Engine(make_bundle(temporal=True), EngineChoice(device="cpu")) for _ in range(2))
    engine.infer(make_frame(0.0))
    engine.reset()
    assert_same(engine.infer(make_frame(0.5)), fresh.infer(make_frame(0.5)))
    assert engine.memory.resets == {"request": 1}


def test_the_limits_of_the_memory_are_those_given(make_bundle: Bundles, make_frame: Frames) -> None:
    engine = Engine(make_bundle(temporal=True), EngineChoice(device="cpu"), temporal=MemoryLimits(max_jump_m=1.0))
    engine.infer(make_frame(0.0))
    engine.infer(make_frame(0.5))  # two metres on
    assert engine.memory.resets == {"pose jump": 1}


def test_warm_up_leaves_no_trace(make_bundle: Bundles, make_frame: Frames) -> None:
    engine, fresh = (Engine(make_bundle(temporal=True), EngineChoice(device="cpu")) for _ in range(2))
    engine.warm_up()
    assert engine.stage_ms == {}
    for seconds in (0.0, 0.5):
        assert_same(engine.infer(make_frame(seconds)), fresh.infer(make_frame(seconds)))


def test_bf16_stays_near_fp32(make_bundle: Bundles, make_frame: Frames) -> None:
    full = Engine(make_bundle(), EngineChoice(device="cpu")).infer(make_frame())
    half = Engine(make_bundle(), EngineChoice(device="cpu", precision="bf16")).infer(make_frame())
    assert half.boxes.dtype == torch.float32
    assert float((half.scores - full.scores).abs().max()) < 0.02
    assert not torch.equal(half.scores, full.scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "tpu"}, "device must be auto, cpu, cuda or cuda:<index>, but is 'tpu'"),
        ({"device": "meta"}, "but is 'meta'"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not there"),
        ({"device": "cpu", "precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"device": "cpu", "precision": "int8"}, "engine torch offers precision fp32, fp16, bf16, but got 'int8'"),
        ({"device": "cpu", "score_threshold": 1.5}, r"score_threshold must be in \[0, 1\]"),
        ({"device": "cpu", "max_detections": 0}, "max_detections must be at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_bundle: Bundles, settings: dict[str, object], message: str) -> None:
    choice = {name: settings.pop(name) for name in ("device", "precision") if name in settings}
    with pytest.raises(ValueError, match=message) as caught:
        Engine(make_bundle(), EngineChoice(**choice), **settings)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_auto_takes_what_there_is() -> None:
    assert device_from("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("temporal", [False, True])
def test_the_graph_of_named_tensors_answers_as_the_student(
    temporal: bool, make_bundle: Bundles, make_frame: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CUDA device, with its static shapes, here without the capture."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    engine, reference = (Engine(make_bundle(temporal=temporal), EngineChoice(device="cpu")) for _ in range(2))
    assert isinstance(engine.network, TorchNetwork)
    engine.network.is_static = True
    engine._least = capacity_of(engine.config, engine.manifest.rig)
    for seconds in (0.0, 0.5):
        assert_same(engine.infer(make_frame(seconds)), reference.infer(make_frame(seconds)))
    assert engine.network._replayed is not None


@pytest.mark.slow
def test_a_compiled_network_answers_as_the_student(make_bundle: Bundles, make_frame: Frames) -> None:
    engine = Engine(make_bundle(), EngineChoice(device="cpu", compiled=True))
    assert_same(engine.infer(make_frame()), Engine(make_bundle(), EngineChoice(device="cpu")).infer(make_frame()))


@pytest.mark.gpu
def test_a_gpu_replays_a_cuda_graph(make_bundle: Bundles, make_frame: Frames) -> None:
    """And another one for a rig that sees more."""
    engine = Engine(make_bundle(temporal=True), EngineChoice(device="cuda"))
    eager = Engine(make_bundle(temporal=True), EngineChoice(device="cuda"))
    assert isinstance(engine.network, TorchNetwork)
    assert isinstance(eager.network, TorchNetwork)
    eager.network.is_static = False
    for seconds in (0.0, 0.5, 1.0):
        assert_same(engine.infer(make_frame(seconds)), eager.infer(make_frame(seconds)))
    assert engine.network._replayed is not None
    assert engine.network._replayed.is_captured


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_agrees_with_the_cpu(make_bundle: Bundles, make_frame: Frames, precision: str) -> None:
    engine = Engine(make_bundle(temporal=True), EngineChoice(device="cuda", precision=precision))  # type: ignore[arg-type]
    reference = Engine(make_bundle(temporal=True), EngineChoice(device="cpu"))
    engine.warm_up()
    for seconds in (0.0, 0.5):
        found, expected = engine.infer(make_frame(seconds)), reference.infer(make_frame(seconds))
    torch.testing.assert_close(found.scores, expected.scores, atol=0.02, rtol=0.02)

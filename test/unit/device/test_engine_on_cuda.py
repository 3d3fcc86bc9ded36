"""The engine's frame on the fake device: two waits, the end of the network and the answer's way to the host."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
from fake_cuda import DeviceMismatchError, FakeCuda

from bevdistill_ros.core.records import CameraFrame
from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.engine import Engine
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engines import choice
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.model.bevformer import BevFormer

WAITS = {
    "torch.cuda.synchronize in bevdistill_ros/inference/engines/torch_engine.py synchronise": 1,
    "copy to the host in bevdistill_ros/inference/engine.py _on_cpu": 1,
}
MakeEngine = Callable[..., Engine]


def rig_of(names: tuple[str, ...], size: tuple[int, int]) -> CameraRig:
    """Cameras that look ahead and back."""
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    for pose, sign in zip(poses, (1.0, -1.0), strict=True):
        pose[:3, :3] = torch.tensor([[0.0, 0.0, sign], [-sign, 0.0, 0.0], [0.0, -1.0, 0.0]])
        pose[:3, 3] = torch.tensor([sign, 0.0, 1.5])
    matrix = torch.tensor([[40.0, 0.0, 31.5], [0.0, 40.0, 15.5], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return CameraRig(names=names, intrinsics=matrix.repeat(2, 1, 1), ego_from_camera=poses, image_size=size)


@pytest.fixture
def make_engine(make_run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> MakeEngine:
    """Makes an engine of a tiny student; on `cuda` to be used within FakeCuda."""
    monkeypatch.setattr(choice, "device_from", torch.device)  # where no such device is known

    def make(device: str, **changes: Any) -> Engine:
        settings = {f"student.{name}": value for name, value in changes.items()}
        config = make_run("unused", **{"data.clip_length": 2, "criterion.heatmap": 1.0, **settings}).student
        torch.manual_seed(0)
        manifest = Manifest(
            name="tiny",
            version="3",
            student=config,
            rig=rig_of(config.cameras, (config.image_height, config.image_width)),
            weights_file="weights.safetensors",
            weights_sha256="",
            provenance={},
        )
        bundle = Bundle(manifest=manifest, student=BevFormer(config).eval())
        return Engine(bundle, EngineChoice(engine="torch", device=device))

    return make


def frame_of(engine: Engine, number: int) -> CameraFrame:
    """Frames every half second of a vehicle at 4 m/s."""
    rig = engine.manifest.rig
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = 2.0 * number
    generator = torch.Generator().manual_seed(number)
    return CameraFrame(
        stamp_ns=10**18 + number * 500_000_000,
        images=torch.randint(0, 256, (2, 3, *rig.image_size), generator=generator, dtype=torch.uint8),
        rig=rig,
        global_from_ego=pose,
        valid=torch.ones(2, dtype=torch.bool),
    )


@pytest.mark.parametrize("changes", [{}, {"temporal": True}, {"query_selection": "heatmap"}], ids=str)
def test_a_frame_waits_twice_and_gives_what_the_cpu_gives(changes: dict[str, Any], make_engine: MakeEngine) -> None:
    reference = make_engine("cpu", **changes)
    with FakeCuda() as device:
        engine = make_engine("cuda", **changes)
        engine.warm_up()
        for number in range(3):
            with device.counted():
                found = engine.infer(frame_of(engine, number))
            assert device.places == WAITS
            expected = reference.infer(frame_of(reference, number))
            assert found.boxes.device.type == "cpu"
            torch.testing.assert_close(found.boxes, expected.boxes)
            torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize(
    "planted", ["inference.temporal_memory._Entry", "model.geometry.Geometry.to", "model.student.CameraStudent._encode"]
)
def test_a_tensor_on_the_host_is_found(planted: str, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"bevdistill_ros.{planted}"
    original = resolve_name(name)

    def on_host(*args: Any, **kwargs: Any) -> Any:
        if planted.endswith("_Entry"):
            return original(*args, **{**kwargs, "bev": kwargs["bev"].cpu()})
        return args[0] if planted.endswith("to") else original(*args, **kwargs).cpu()

    with FakeCuda():
        engine = make_engine("cuda", temporal=True)
        monkeypatch.setattr(name, on_host)
        with pytest.raises(DeviceMismatchError, match="cuda:0 and cpu"):
            [engine.infer(frame_of(engine, number)) for number in range(2)]

"""The network on the fake CUDA device (test/unit/device): it stays there, and nothing in it waits."""

from collections.abc import Callable

import pytest
import torch
from fake_cuda import FakeCuda

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.records import BevMemory, CameraInput


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
    past = BevMemory(
        bev=torch.randn(2, 16, 8, 12),
        global_from_ego=make_cameras(2, seed=1).global_from_ego,
        present=torch.ones(2, dtype=torch.bool),
    )
    geometry = student.geometry.of(make_cameras(2), past if temporal else None)
    with FakeCuda() as device:
        student.to("cuda")
        images, geometry, bev = make_cameras(2).images.to("cuda"), geometry.to("cuda"), past.bev.to("cuda")
        with device.counted() as waits:
            output = student.network(images, geometry, bev if temporal else None)
        assert output.bev.device.type == output.predictions.codes.device.type == "cuda"
        assert waits == []

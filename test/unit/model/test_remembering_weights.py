from collections.abc import Callable

import torch

from bevdistill_ros.model.bevformer import BevFormer
from bevdistill_ros.model.records import BevMemory, CameraInput
from training.weights.temporal_start import remembering_weights

MakeStudent = Callable[..., BevFormer]


def test_the_student_answers_as_before_until_it_learns_to_look_back(
    make_student: MakeStudent, make_cameras: Callable[..., CameraInput]
) -> None:
    single, temporal = make_student(), make_student(temporal=True)
    cameras = make_cameras()
    with torch.no_grad():
        expected = single(cameras)
        assert not torch.allclose(temporal(cameras).bev, expected.bev, atol=1e-2)
        temporal.load_state_dict(remembering_weights(single.state_dict(), temporal))
        found = temporal(cameras)
        assert torch.allclose(found.bev, expected.bev, atol=1e-5)
        assert torch.allclose(found.predictions.codes, expected.predictions.codes, atol=1e-4)
        memory = BevMemory(
            bev=torch.randn_like(expected.bev),
            global_from_ego=cameras.global_from_ego,
            present=torch.ones(2, dtype=torch.bool),
        )
        assert torch.allclose(temporal(cameras, memory).bev, expected.bev, atol=1e-5)
    temporal(cameras, memory).bev.square().sum().backward()
    gradient = temporal.get_parameter("encoder.layers.0.self_attention.past_projection.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_weights_with_memory_and_those_of_another_size_come_back_as_they_are(make_student: MakeStudent) -> None:
    temporal = make_student(temporal=True)
    for student in (temporal, make_student(bev_points=3), make_student(embed_dim=32)):
        weights = student.state_dict()
        same = remembering_weights(weights, temporal)
        assert same.keys() == weights.keys()
        assert all(value is weights[name] for name, value in same.items())

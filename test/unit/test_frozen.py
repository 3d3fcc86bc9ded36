"""The frozen teacher."""

import torch
from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from training.teacher.frozen import FrozenTeacher
from training.teacher.object_dgcnn import ObjectDgcnn, TeacherConfig


def frozen() -> FrozenTeacher:
    torch.manual_seed(0)
    config = TeacherConfig(
        grid=BevGrid(rows=8, cols=8),
        pillar_stride=1,
        point_channels=(8,),
        stage_channels=(8,),
        stage_layers=1,
        num_levels=1,
        embed_dim=16,
        num_heads=2,
        feedforward_dim=16,
        dropout=0.5,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=4,
    )
    return FrozenTeacher(ObjectDgcnn(config), channels=16)


def cloud() -> Tensor:
    return torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([20.0, 20.0, 1.0, 1.0, 0.1])


class Learner(nn.Module):
    """Something that learns from the teacher's map, with the teacher as a child."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.map = nn.Parameter(torch.zeros(1, teacher.channels, 8, 8))

    def forward(self, points: Tensor) -> Tensor:
        return (self.map - self.teacher([points]).finest).square().mean()


def test_teacher_is_the_same_to_the_last_bit_after_training_something_else() -> None:
    learner = Learner(frozen())
    learner.train()
    learner.requires_grad_(True)
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    assert any("running_mean" in name for name in before)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.1, weight_decay=0.1)
    losses = []
    for _ in range(3):
        loss = learner(cloud())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = learner.teacher.state_dict()
    assert losses[-1] < losses[0]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_train_keeps_every_part_in_eval_mode() -> None:
    teacher = frozen()
    teacher.train()
    nn.Sequential(teacher).train()
    assert not any(module.training for module in teacher.modules())


def test_nothing_requires_grad_and_no_graph_is_built() -> None:
    teacher = frozen()
    output = teacher([cloud()])
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert output.encoded is not None
    assert output.predictions is not None
    tensors = (output.finest, output.encoded, output.predictions.logits, output.predictions.codes)
    assert not any(tensor.requires_grad for tensor in tensors)


def test_same_cloud_same_answer() -> None:
    teacher = frozen()
    first, second = teacher([cloud()]), teacher([cloud()])
    assert first.predictions is not None
    assert second.predictions is not None
    assert torch.equal(first.predictions.logits, second.predictions.logits)
    assert torch.equal(first.finest, second.finest)

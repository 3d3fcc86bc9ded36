"""All that trains on a GPU runs on the fake one: no tensor is on the wrong device, and the waits are those listed."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from fake_cuda import DeviceMismatchError, FakeCuda
from torch import Tensor

from training.data.sample import Batch
from training.distill.build import METHODS, RECIPES
from training.run.module import StudentTraining, TeacherTraining

MakeModule = Callable[..., StudentTraining]

OF_A_STEP = {
    "tolist in bevdistill_ros/model/geometry.py _widths": 2,  # once a frame of the clip
    "_local_scalar_dense in training/criterion/set_loss.py inside_grid": 3,  # of criterion, heatmap and ignored boxes
    "copy to the host in training/criterion/matcher.py assign": 1,
    "_local_scalar_dense in training/run/module.py training_step": 1,  # is the loss finite?
}
OF_A_TEACHER = {
    "nonzero in training/teacher/pillars.py _sorted_by_pillar": 1,
    "unique_consecutive in training/teacher/pillars.py forward": 1,
}
ANOTHER_MATCHING = Counter({"copy to the host in training/criterion/matcher.py assign": 1})
ADDED = {  # by methods beside the teacher
    "set2set": ANOTHER_MATCHING,
    "bevdistill_sparse": ANOTHER_MATCHING,
    "label_teacher": Counter(  # a matching an item
        {
            "copy to the host in training/criterion/matcher.py assign": 2,
            "_local_scalar_dense in training/criterion/set_loss.py inside_grid": 3,
        }
    ),
}


def step(module: Any, batch: Batch) -> Counter[str]:
    """A training step on the fake device, as Lightning makes it: what waited for the device in it."""
    module.gradient_balance.is_due = lambda step: False
    with FakeCuda() as device:
        module.to("cuda").train()
        there = batch.pin_memory().to("cuda", non_blocking=True)
        with device.counted():
            module.training_step(there, 0).backward()
        trained = {p.grad.device.type for p in module.parameters() if p.grad is not None}
        assert trained == {"cuda"}
        return device.places


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("method", [name for name in METHODS if name not in RECIPES])
def test_a_training_step_stays_on_its_device_and_waits_where_listed(
    method: str, make_module: MakeModule, batch: Batch
) -> None:
    found = step(make_module(method), batch)
    added = Counter() if method == "none" else Counter(OF_A_TEACHER) + ADDED.get(method, Counter())
    assert dict(found) == dict(Counter(OF_A_STEP) + added)


def test_weights_by_gradients_wait_once_for_all_norms(make_module: MakeModule, batch: Batch) -> None:
    module = make_module("bevdistill")
    with FakeCuda() as device:
        module.to("cuda").train()
        there = batch.to("cuda")
        losses, bev = module.terms(there)
        with device.counted():
            module.measure(losses, bev)
        assert device.places == {
            "tolist in training/run/balance.py gradient_norms": 1,
            "tensor of Python values in training/run/balance.py update": 1,
        }


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(("selection", "temporal"), [("learned", False), ("heatmap", True)])
def test_students_of_all_kinds_stay_on_their_device(
    selection: str, temporal: bool, make_module: MakeModule, batch: Batch
) -> None:
    module = make_module(**{"student.query_selection": selection, "student.temporal": temporal})
    step(module, batch if temporal else replace(batch, history=(), history_present=batch.history_present[:0]))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("interaction", ["attention", "dgcnn"])
def test_a_teacher_trains_on_its_device(interaction: str, make_run: Callable[..., Any], batch: Batch) -> None:
    config = make_run(
        Path("unused"),
        role="teacher",
        **{"teacher.query_interaction": interaction, "teacher.num_neighbours": 4, "run.balance_every": 0},
    )
    found = step(TeacherTraining(config), batch)
    assert found >= Counter(OF_A_TEACHER)


def on_host(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but what it returns lies on the host."""

    def moved(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return result.cpu() if isinstance(result, Tensor) else type(result)(value.cpu() for value in result)

    return moved


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    ("method", "planted"),
    [
        ("none", "bevdistill_ros.model.layers.FeedForward.forward"),
        ("none", "bevdistill_ros.model.temporal_attention.TemporalSelfAttention.forward"),
        ("none", "training.criterion.detection_loss.heatmap_loss"),
        ("none", "training.criterion.set_loss.sigmoid_focal_loss"),
        ("none", "training.criterion.matcher.focal_cost"),
        ("fitnet", "training.teacher.pillars.PillarEncoder._features"),
        ("fitnet", "training.distill.fitnet.bev_pair"),
        ("set2set", "training.distill.set2set.take"),
        ("monodistill", "training.distill.monodistill.box_map"),
        ("uvtr", "training.distill.uvtr.bev_pair"),
        ("unidistill", "training.distill.unidistill.key_points"),
        ("bevdistill_dense", "training.distill.bevdistill_dense.foreground_mask"),
        ("bevdistill_sparse", "training.distill.bevdistill_sparse.rate"),
        ("cross_head", "training.distill.cross_head.class_divergence"),
    ],
)
def test_a_tensor_on_the_host_is_found(
    method: str, planted: str, monkeypatch: pytest.MonkeyPatch, make_module: MakeModule, batch: Batch
) -> None:
    monkeypatch.setattr(planted, on_host(resolve_name(planted)))
    module = make_module(method)
    with pytest.raises(DeviceMismatchError, match="cuda:0 and cpu"):
        step(module, batch)


@pytest.mark.parametrize(("precision", "fuses"), [("32-true", True), ("bf16-mixed", True), ("16-mixed", None)])
def test_the_optimiser_is_one_kernel_on_a_gpu(precision: str, fuses: bool | None, make_module: MakeModule) -> None:
    """But not where the loss is scaled: torch clips no gradients of a fused optimiser then."""
    module = make_module(**{"run.precision": precision})
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is None
    with FakeCuda():
        module.to("cuda")
        assert module.configure_optimizers()["optimizer"].defaults["fused"] is fuses

"""What each single term teaches: leaves of the student and layers of the distiller, never the teacher."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bevdistill_ros.model.records import StudentOutput
from training.distill.bevdistill_dense import BevDistillDenseConfig
from training.distill.bevdistill_sparse import BevDistillSparseConfig
from training.distill.build import METHODS, DistillConfig, build_distiller, weights_of
from training.distill.cross_head import CrossHeadConfig
from training.teacher.output import TeacherOutput

Learners = dict[str, set[str]]  # by term, what gets a gradient that is not zero

DENSE: Learners = {"dense": {"bev", "student_adapter"}}
BOX: Learners = {"sparse_box": {"codes"}}
CROSSED: Learners = {f"cross_{term}": {"bev", "adapter"} for term in ("class", "box")}
MATCHED: Learners = {"sparse_mi": {"features", "critic"}}


def sparse(**settings: Any) -> DistillConfig:
    config = BevDistillSparseConfig(box_term=True, **settings)
    return DistillConfig(method="bevdistill_sparse", bevdistill_sparse=config)


def of_heads(prefix: str) -> Learners:
    """Terms of the methods that have dense heads."""
    return {
        f"{prefix}_response": {"bev", "student_head"},
        f"{prefix}_teacher_head": {"teacher_head"},
    }


CASES: dict[str, tuple[DistillConfig, Learners]] = {
    "fitnet": (DistillConfig(method="fitnet"), {"fitnet": {"bev", "regressor"}}),
    "set2set": (DistillConfig(method="set2set"), {"set2set_class": {"logits"}, "set2set_box": {"codes"}}),
    "monodistill": (
        DistillConfig(method="monodistill"),
        {f"monodistill_{term}": {"bev", "adapter"} for term in ("feature", "affinity")} | of_heads("monodistill"),
    ),
    "uvtr": (DistillConfig(method="uvtr"), {"uvtr": {"bev", "adapter"}}),
    "bevdistill": (DistillConfig(method="bevdistill"), DENSE | MATCHED),
    "bevdistill_plus": (DistillConfig(method="bevdistill_plus"), DENSE | CROSSED),
    "label_teacher": (
        DistillConfig(method="label_teacher"),
        {"label": {"bev", "dense"}, "label_encoder": {"encoder"}},
    ),
    "cross_head": (DistillConfig(method="cross_head"), CROSSED),
    "cross_head_as_it_is": (
        DistillConfig(method="cross_head", cross_head=CrossHeadConfig(adapter="none")),
        {term: {"bev"} for term in CROSSED},
    ),
    "dense_as_it_is": (
        DistillConfig(method="bevdistill_dense", bevdistill_dense=BevDistillDenseConfig(student_adapter="none")),
        {"dense": {"bev"}},
    ),
    "dense": (DistillConfig(method="bevdistill_dense"), DENSE),
    "dense_trained": (
        DistillConfig(method="bevdistill_dense", bevdistill_dense=BevDistillDenseConfig(teacher_adapter="conv")),
        {"dense": {"bev", "student_adapter", "teacher_adapter"}},
    ),
    "sparse": (DistillConfig(method="bevdistill_sparse"), MATCHED),
    "sparse_batch": (sparse(negatives="batch"), MATCHED | BOX),
    "sparse_release": (sparse(positions="release"), {"sparse_mi": {"bev", "critic"}} | BOX),
    "sparse_kl": (sparse(class_term="kl"), {"sparse_kl": {"logits"}} | BOX),
    "sparse_none": (sparse(class_term="none"), BOX),
    "unidistill": (
        DistillConfig(method="unidistill"),
        {f"unidistill_{term}": {"bev", "adapter"} for term in ("feature", "relation")} | of_heads("unidistill"),
    ),
}
TERMS = [
    pytest.param(config, term, names, id=f"{case}-{term}")
    for case, (config, learners) in CASES.items()
    for term, names in learners.items()
]


def leaves_of(student: StudentOutput, teacher: TeacherOutput, distiller: nn.Module) -> list[tuple[str, Tensor]]:
    """What could learn, by name; layers by the name of the distiller's part that they are in."""
    leaves = {"bev": student.bev, "teacher.finest": teacher.finest, "teacher.encoded": teacher.encoded}
    leaves |= vars(student.predictions) | {
        f"teacher.{name}": value for name, value in vars(teacher.predictions).items()
    }
    layers = [(name.split(".")[2], value) for name, value in distiller.named_parameters()]  # parts.<method>.<name>
    return [(name, value) for name, value in leaves.items() if value is not None] + layers


@pytest.mark.parametrize(("config", "term", "learners"), TERMS)
def test_a_term_teaches_these_and_nothing_else(config, term, learners, make_scene, grid, channels, teacher_decoder):
    scene = make_scene()
    torch.manual_seed(0)
    distiller = build_distiller(
        config, grid=grid, student_channels=channels, teacher_channels=channels, teacher_decoder=teacher_decoder
    )
    loss = distiller(scene.student, scene.teacher, scene.batch)[term]
    names, tensors = zip(*leaves_of(scene.student, scene.teacher, distiller), strict=True)
    gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
    taught = {name for name, value in zip(names, gradients, strict=True) if value is not None and value.any()}
    assert taught == learners


@pytest.mark.parametrize(("config", "learners"), CASES.values(), ids=CASES.keys())
def test_every_term_is_listed(config, learners):
    assert learners.keys() == weights_of(config).keys()


def test_every_method_is_listed():
    assert {config.method for config, _ in CASES.values()} == set(METHODS) - {"none"}

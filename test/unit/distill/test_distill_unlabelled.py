"""Frames without labels: which terms learn from the teacher there."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from training.distill.build import DistillConfig, build_distiller

CASES: dict[str, tuple[dict[str, Any], bool]] = {
    "fitnet": ({}, True),
    "set2set": ({}, True),
    "bevdistill_dense by the teacher's scores": ({"mask": "teacher_score"}, True),
    "bevdistill_dense around boxes": ({"mask": "soft"}, False),
    "bevdistill_sparse without quality": ({"quality": False}, True),
    "bevdistill_sparse by quality": ({}, False),
    "unidistill": ({}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_terms_on_a_frame_without_boxes(case: str, make_scene: Callable[..., Any]) -> None:
    changes, learns = CASES[case]
    method = case.split()[0]
    config = DistillConfig(method=method)
    part = type(getattr(config, method))(**changes)
    torch.manual_seed(0)
    scene = make_scene((0,))
    channels = scene.student.bev.shape[1]
    distiller = build_distiller(
        DistillConfig(method=method, **{method: part}),
        grid=scene.teacher.grid,
        student_channels=channels,
        teacher_channels=channels,
    )
    terms = distiller(scene.student, scene.teacher, scene.batch)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    found = [scene.student.bev, scene.student.predictions.logits, scene.student.predictions.features]
    pull = sum(float(value.grad.abs().sum()) for value in found if value.grad is not None)
    assert (pull > 0) == learns
    assert torch.isfinite(total)

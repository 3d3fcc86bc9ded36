"""Full precision where it is asked for, whatever the process is set to."""

import pytest
import torch

from bevdistill_ros.core.precision import full_precision
from bevdistill_ros.model import geometry
from training.distill.base import exact_product


def test_products_are_exact_and_the_setting_comes_back() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            with full_precision("cpu"):
                assert torch.get_float32_matmul_precision() == "highest"
                assert (torch.eye(2) @ torch.eye(2)).dtype == torch.float32
            assert exact_product(torch.eye(2), torch.eye(2)).dtype == torch.float32
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_pillars_are_projected_in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = geometry.project_points

    def watched(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(torch.get_float32_matmul_precision() + str(torch.is_autocast_enabled("cpu")))
        return original(*given)

    monkeypatch.setattr(geometry, "project_points", watched)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            geometry.visible_pillars(
                torch.zeros(4, 2, 3), torch.eye(4)[None, None], torch.ones(1, 1, dtype=torch.bool), image_size=(4, 4)
            )
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["highestFalse"]

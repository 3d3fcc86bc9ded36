"""Full precision where it is asked for, whatever the process is set to."""

import torch

from bevdistill_ros.core.precision import full_precision
from bevdistill_ros.model.geometry import visible_pillars
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


def test_pillars_are_projected_in_full_precision() -> None:
    points = torch.rand(50, 2, 3, generator=torch.Generator().manual_seed(0)) * 20
    image_from_ego = torch.eye(4)[None, None] * torch.tensor([900.0, 900.0, 1.0, 1.0])[:, None]
    valid = torch.ones(1, 1, dtype=torch.bool)
    expected = visible_pillars(points, image_from_ego, valid, image_size=(900, 900))
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = visible_pillars(points, image_from_ego, valid, image_size=(900, 900))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.places, expected.places)
    assert expected.seen.any()

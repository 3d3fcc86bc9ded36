"""Boxes as lines in images."""

import math

import numpy as np
import torch

from bevdistill_ros.core.geometry import invert_rigid, transform_from
from bevdistill_ros.core.wireframe import EDGES, box_segments

INTRINSICS = torch.tensor([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=torch.float64)
CAMERA_FROM_EGO = invert_rigid(torch.from_numpy(transform_from(np.array([0.5, -0.5, 0.5, -0.5]), np.zeros(3))))
IMAGE_FROM_EGO = INTRINSICS @ CAMERA_FROM_EGO


def box(x: float, length: float = 2.0) -> torch.Tensor:
    return torch.tensor([[x, 0.0, 0.0, length, 2.0, 2.0, 0.0, 0.0, 0.0]])


def test_box_ahead_shows_all_its_edges() -> None:
    (segments,) = box_segments(box(10.0), IMAGE_FROM_EGO, 80, 100)
    assert segments.shape == (len(EDGES), 2, 2)
    # The near face is 9 m away: its half width of 1 m spans 100 / 9 px about the principal point.
    assert math.isclose(float(segments[..., 0].min()), 50 - 100 / 9, rel_tol=1e-6)
    assert math.isclose(float(segments[..., 1].max()), 40 + 100 / 9, rel_tol=1e-6)


def test_box_behind_shows_nothing() -> None:
    (segments,) = box_segments(box(-10.0), IMAGE_FROM_EGO, 80, 100)
    assert len(segments) == 0


def test_box_around_the_camera_is_cut_and_stays_finite() -> None:
    (segments,) = box_segments(box(0.5, length=4.0), IMAGE_FROM_EGO, 80, 100)
    assert 0 < len(segments) < len(EDGES)
    assert torch.isfinite(segments).all()

"""Which boxes lie in the view of some camera, by geometry alone: what hides behind other objects counts as in view."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import corners_3d
from bevdistill_ros.core.geometry import invert_rigid, project_points
from bevdistill_ros.model.records import CameraInput

MIN_DEPTH = 0.1  # [m] in front of a camera
RING_RADIUS, RING_HEIGHT = 10.0, 1.0  # [m] points around the vehicle that show whether cameras look all around
RING_STEPS = 180
FULL_RING = 0.9  # share of these points that the cameras of a full ring show


@torch.no_grad()
def boxes_in_view(boxes: Tensor, image_from_ego: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether any part of a box lies in the image of any camera.

    Args:
        boxes: (M, 9) in the ego frame.
        image_from_ego: (N, 4, 4).
        valid: (N,) bool, False for a missing camera.
        size: Height and width of the images [px].

    Returns:
        (M,) bool.
    """
    return _points_in_view(_lattice(boxes), image_from_ego, valid, size).any(dim=-1)


def targets_in_view(boxes: Sequence[Tensor], cameras: CameraInput, history: Sequence[CameraInput] = ()) -> list[Tensor]:
    """Whether the cameras of each item show its boxes, now or in an earlier frame of its clip.

    What was seen before may be remembered by a temporal student. The boxes are taken to have stood still since.

    Args:
        boxes: B x (M_b, 9) in the ego frame of the current frame.
        cameras: The current frame.
        history: Earlier frames.

    Returns:
        B x (M_b,) bool; all True for an item whose cameras look all around, so that nothing changes for it.
    """
    found = []
    for item, own in enumerate(boxes):
        now = cameras.global_from_ego[item]
        if looks_all_around(cameras, item):
            found.append(torch.ones(len(own), dtype=torch.bool, device=own.device))
            continue
        seen = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        for frame in (cameras, *history):
            earlier_from_now = invert_rigid(frame.global_from_ego[item]) @ now
            image_from_now = frame.image_from_ego[item].double() @ earlier_from_now
            seen |= boxes_in_view(own.double(), image_from_now, frame.valid[item], _size(frame))
        found.append(seen)
    return found


def looks_all_around(cameras: CameraInput, item: int) -> bool:
    """Whether the cameras of an item show the road in (nearly) all directions."""
    angles = torch.arange(RING_STEPS, dtype=torch.float64, device=cameras.valid.device) * (2 * math.pi / RING_STEPS)
    ring = torch.stack(
        [RING_RADIUS * angles.cos(), RING_RADIUS * angles.sin(), torch.full_like(angles, RING_HEIGHT)], -1
    )
    seen = _points_in_view(ring, cameras.image_from_ego[item].double(), cameras.valid[item], _size(cameras))
    return bool(seen.double().mean() >= FULL_RING)


def _points_in_view(points: Tensor, image_from_ego: Tensor, valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether any camera shows points (..., 3): (...) bool."""
    pixels, depth = project_points(image_from_ego.to(points.dtype), points.reshape(1, -1, 3))
    inside = (pixels >= -0.5).all(-1) & (pixels[..., 0] < size[1] - 0.5) & (pixels[..., 1] < size[0] - 0.5)
    seen = (inside & (depth > MIN_DEPTH) & valid[:, None]).any(dim=0)
    return seen.reshape(points.shape[:-1])


def _lattice(boxes: Tensor) -> Tensor:
    """Points (M, 27, 3) [m] of boxes (M, 9): corners, middles of edges and faces, and the centre."""
    corners = corners_3d(boxes)  # of a box: the bottom four around, then the top four
    below = corners[:, :4]
    bottom = torch.cat([below, (below + below.roll(-1, dims=1)) / 2, boxes[:, None, :3]], dim=1)
    bottom[:, 8, 2] -= boxes[:, 5] / 2
    rise = torch.zeros_like(boxes[:, None, :3])
    rise[..., 2] = boxes[:, None, 5]
    return torch.cat([bottom, bottom + rise / 2, bottom + rise], dim=1)


def _size(cameras: CameraInput) -> tuple[int, int]:
    return cameras.images.shape[-2], cameras.images.shape[-1]

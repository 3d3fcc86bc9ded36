"""Boxes and lines as segments in images, cut where they pass behind the camera."""

import torch
from torch import Tensor

from bevdistill_ros.core.boxes import corners_3d
from bevdistill_ros.core.geometry import transform_points

# Corners are numbered as core.boxes.corners_3d gives them: bottom 0-3 from front left, counter-clockwise, then the
# top 4-7.
EDGES: tuple[tuple[int, int], ...] = (
    (0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7),
    (0, 7), (3, 4),  # a cross on the front face marks the heading
)  # fmt: skip
NEAR = 0.1  # [m] lines are cut at this depth


def box_segments(boxes: Tensor, image_from_ego: Tensor, height: int, width: int) -> list[Tensor]:
    """Edges of boxes as seen by one camera.

    Args:
        boxes: (M, 9) in the ego frame.
        image_from_ego: (4, 4).
        height: Of the image [px].
        width: Of the image [px].

    Returns:
        For each box, segments (S, 2, 2) as (start, end) x (u, v) [px]; S is 0 for a box that the image does not show.
    """
    corners = corners_3d(boxes.to(image_from_ego.dtype))
    edges = torch.tensor(EDGES)
    return [line_segments(box[edges], image_from_ego, height, width) for box in corners]


def line_segments(lines: Tensor, image_from_ego: Tensor, height: int, width: int) -> Tensor:
    """Straight lines as seen by one camera.

    Args:
        lines: (S, 2, 3) start and end in the ego frame [m].
        image_from_ego: (4, 4).
        height: Of the image [px].
        width: Of the image [px].

    Returns:
        (V, 2, 2) as (start, end) x (u, v) [px], of the V lines that the image shows.
    """
    return _visible_segments(transform_points(image_from_ego, lines), height, width)


def _visible_segments(ends: Tensor, height: int, width: int) -> Tensor:
    """Cut segments (S, 2, 3) of (u depth, v depth, depth) at the near plane; keep those that touch the image."""
    depth = ends[..., 2]
    ends, depth = ends[(depth > NEAR).any(dim=1)], depth[(depth > NEAR).any(dim=1)]
    gap = depth[:, 1] - depth[:, 0]
    fraction = (NEAR - depth[:, 0]) / torch.where(gap.abs() < 1e-9, torch.ones_like(gap), gap)
    cut = ends[:, 0] + fraction[:, None] * (ends[:, 1] - ends[:, 0])
    ends = torch.where((depth > NEAR)[..., None], ends, cut[:, None])
    pixels = ends[..., :2] / ends[..., 2:]
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)
    inside = (high[:, 0] >= 0) & (low[:, 0] < width) & (high[:, 1] >= 0) & (low[:, 1] < height)
    return pixels[inside]

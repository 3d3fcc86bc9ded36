"""3D boxes: layout, corners, regression code and overlap in BEV.

A box is nine numbers [x y z l w h yaw vx vy]: its centre [m], length along its heading, width across it, height [m],
yaw [rad] counter-clockwise from +x, and velocity [m/s]. z is the centre of the box, not its bottom.

A code is the ten numbers that networks regress, [x y log(w) log(l) z log(h) sin(yaw) cos(yaw) vx vy], as in DETR3D
(arXiv 2110.06922), in metres.
"""

import math

import torch
from torch import Tensor

BOX_SIZE = 9
CODE_SIZE = 10


def encode_boxes(boxes: Tensor) -> Tensor:
    """Encode boxes (..., 9) as regression codes (..., 10)."""
    x, y, z, length, width, height, yaw, vx, vy = boxes.unbind(dim=-1)
    return torch.stack([x, y, width.log(), length.log(), z, height.log(), yaw.sin(), yaw.cos(), vx, vy], dim=-1)


def decode_boxes(codes: Tensor) -> Tensor:
    """Decode regression codes (..., 10) to boxes (..., 9); sine and cosine need not be of unit length."""
    x, y, log_width, log_length, z, log_height, sine, cosine, vx, vy = codes.unbind(dim=-1)
    yaw = torch.atan2(sine, cosine)
    return torch.stack([x, y, z, log_length.exp(), log_width.exp(), log_height.exp(), yaw, vx, vy], dim=-1)


def wrap_angle(angle: Tensor) -> Tensor:
    """Bring angles [rad] into [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


def corners_bev(boxes: Tensor) -> Tensor:
    """Corners of boxes (..., 9) seen from above: (..., 4, 2) [m], counter-clockwise from front left."""
    half_length, half_width = (boxes[..., 3:5] / 2).unbind(dim=-1)
    along = torch.stack([half_length, -half_length, -half_length, half_length], dim=-1)
    across = torch.stack([half_width, half_width, -half_width, -half_width], dim=-1)
    local = torch.stack([along, across], dim=-1)
    cosine, sine = boxes[..., 6].cos(), boxes[..., 6].sin()
    rotation = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], dim=-2)
    return local @ rotation + boxes[..., None, :2]


def corners_3d(boxes: Tensor) -> Tensor:
    """Corners of boxes (..., 9): (..., 8, 3) [m]; the bottom four as in `corners_bev`, then the top four."""
    flat = corners_bev(boxes)
    half_height = boxes[..., 5] / 2
    levels = torch.stack([boxes[..., 2] - half_height, boxes[..., 2] + half_height], dim=-1)
    z = levels[..., :, None].expand(*levels.shape, 4)
    return torch.cat([torch.stack([flat, flat], dim=-3), z.unsqueeze(-1)], dim=-1).flatten(-3, -2)


def transform_boxes(target_from_source: Tensor, boxes: Tensor) -> Tensor:
    """Transform boxes (M, 9) into another frame by a rigid transform (4, 4); velocities are rotated.

    Boxes stay upright: only the change of heading of the rotation is applied.
    """
    rotation = target_from_source[:3, :3]
    heading = torch.stack([boxes[:, 6].cos(), boxes[:, 6].sin(), torch.zeros_like(boxes[:, 6])], dim=-1) @ rotation.T
    velocity = torch.cat([boxes[:, 7:9], torch.zeros_like(boxes[:, :1])], dim=-1) @ rotation.T
    centre = boxes[:, :3] @ rotation.T + target_from_source[:3, 3]
    yaw = torch.atan2(heading[:, 1], heading[:, 0])
    return torch.cat([centre, boxes[:, 3:6], yaw[:, None], velocity[:, :2]], dim=-1)


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Which points (N, 3) lie in which boxes (M, 9), the border included: bool (M, N)."""
    offset = points[None] - boxes[:, None, :3]
    cosine, sine = boxes[:, 6].cos()[:, None], boxes[:, 6].sin()[:, None]
    along = offset[..., 0] * cosine + offset[..., 1] * sine
    across = -offset[..., 0] * sine + offset[..., 1] * cosine
    local = torch.stack([along, across, offset[..., 2]], dim=-1)
    return (local.abs() <= boxes[:, None, 3:6] / 2).all(dim=-1)


def iou_bev(first: Tensor, second: Tensor) -> Tensor:
    """Overlap of rotated boxes in BEV, pair by pair.

    Args:
        first: Boxes (N, 9).
        second: Boxes (N, 9).

    Returns:
        Intersection over union (N,) in [0, 1], by clipping one rectangle with the other (Sutherland-Hodgman).
    """
    if first.device.type != "cpu":  # to choose pairs would wait for the device
        return _clipped_iou(first, second)
    reach = (first[:, 3:5].norm(dim=1) + second[:, 3:5].norm(dim=1)) / 2
    # Most boxes of a scene lie far apart; what is not finite is computed, so that it stays visible.
    near = ~((first[:, :2] - second[:, :2]).norm(dim=1) >= reach)
    return first.new_zeros(len(first)).masked_scatter(near, _clipped_iou(first[near], second[near]))


def _clipped_iou(first: Tensor, second: Tensor) -> Tensor:
    """`iou_bev` without a look at which pairs can overlap."""
    # Clipping near the origin in float64 keeps the shoelace sum exact for boxes far from the ego.
    shift = first[:, None, :2].double()
    polygon = corners_bev(first.double()) - shift
    clip = corners_bev(second.double()) - shift
    intersection = _clipped_area(polygon, clip)
    areas = first[:, 3].double() * first[:, 4] + second[:, 3].double() * second[:, 4]
    return (intersection / (areas - intersection).clamp(min=1e-9)).clamp(0, 1).to(first.dtype)


def _clipped_area(polygon: Tensor, clip: Tensor) -> Tensor:
    """Area (N,) of convex polygons (N, 4, 2) inside convex quadrilaterals (N, 4, 2), both counter-clockwise."""
    for edge in range(4):
        start, end = clip[:, edge], clip[:, (edge + 1) % 4]
        polygon = _clip_half_plane(polygon, start[:, None], (end - start)[:, None])
    x, y = polygon.unbind(dim=-1)
    return 0.5 * (x * y.roll(-1, dims=1) - x.roll(-1, dims=1) * y).sum(dim=1).clamp(min=0)


def _clip_half_plane(polygon: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Clip polygons (N, K, 2) to the left of a line; returns (N, 2K, 2) with repeated vertices, which have no area.

    Each edge contributes two vertices: where it enters (or starts) and where it leaves (or ends). An edge that lies
    wholly outside collapses onto its end's projection, so that polygons of a batch keep one shape.
    """
    side = direction[..., 0] * (polygon - origin)[..., 1] - direction[..., 1] * (polygon - origin)[..., 0]
    following, following_side = polygon.roll(-1, dims=1), side.roll(-1, dims=1)
    gap = side - following_side
    fraction = (side / torch.where(gap.abs() < 1e-12, torch.ones_like(gap), gap)).clamp(0, 1).unsqueeze(-1)
    crossing = polygon + fraction * (following - polygon)
    inside, following_inside = (side >= 0).unsqueeze(-1), (following_side >= 0).unsqueeze(-1)
    entry = torch.where(inside, polygon, crossing)
    leave = torch.where(following_inside, following, crossing)
    outside = ~inside & ~following_inside
    projected = _project_on_line(polygon, origin, direction)
    projected_following = _project_on_line(following, origin, direction)
    entry = torch.where(outside, projected, entry)
    leave = torch.where(outside, projected_following, leave)
    return torch.stack([entry, leave], dim=2).flatten(1, 2)


def _project_on_line(points: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    length_squared = direction.square().sum(dim=-1, keepdim=True).clamp(min=1e-12)
    along = ((points - origin) * direction).sum(dim=-1, keepdim=True) / length_squared
    return origin + along * direction

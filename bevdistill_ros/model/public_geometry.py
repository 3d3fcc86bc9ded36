"""Geometry of the public BEVFormer, in its own frame: what cameras see, the past, and ego motion.

Conventions of github.com/fundamentalvision/BEVFormer: BEV rows run along the model's y (ahead), columns along its x
(right); heights of a pillar begin 0.5 m from its ends; of a pillar that a camera sees at all every height is sampled;
a place in the image is u / W, without half a pixel.

Shape legend: B batch, N cameras, Q = rows * cols cells, Z heights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.geometry import (
    BevWarp,
    Capacity,
    Geometry,
    GeometryFinder,
    ViewRule,
    VisiblePillars,
    bev_warp,
    ego_motion,
    visible_pillars,
)
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.records import BevMemory, CameraInput

MIN_DEPTH = 1e-5  # [m]
END_DISTANCE = 0.5  # [m] of the lowest and highest reference point from the ends of a pillar
EGO_STATE_SIZE = 18  # numbers, see `ego_state`


@dataclass(frozen=True, kw_only=True)
class PublicGeometry(Geometry):
    """What the public network reads besides images and the previous BEV."""

    ego_state: Tensor  # (B, 18) float32, see `ego_state`
    shift: (
        Tensor  # (B, 2, 2) float32, x and y of the reference points on previous and current map, in parts of the grid
    )

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(super()._mapped(change), ego_state=change(self.ego_state), shift=change(self.shift))


class PublicGeometryFinder(GeometryFinder):
    """Computes the geometry of frames; what the cameras see is kept while the rig stays the same.

    Args:
        config: Of the student.
    """

    def __init__(self, config: PublicStudentConfig) -> None:
        super().__init__(config.model_grid, config.num_heights, (config.image_height, config.image_width))
        self.config = config
        self._rule = ViewRule(min_depth=MIN_DEPTH, pixel_offset=config.pixel_offset, whole_pillars=True)
        self._ego_from_model = torch.tensor(config.ego_from_model, dtype=torch.float64).reshape(4, 4)

    def of(
        self, cameras: CameraInput, previous: BevMemory | None = None, least: Capacity | None = None
    ) -> PublicGeometry:
        """The geometry of a batch of frames, on their device; see `GeometryFinder.of`."""
        visible = self._visible(cameras.image_from_ego, cameras.valid, least or Capacity())
        pose = cameras.global_from_ego.double()
        past = (
            pose if previous is None else torch.where(previous.present[:, None, None], previous.global_from_ego, pose)
        )
        state = ego_state(pose, past.double(), cameras.motion)
        return PublicGeometry(
            visible=visible,
            warp=None if previous is None else self._warp(pose, previous, state),
            ego_state=state.float(),
            shift=self._shift(state).float(),
        )

    def _warp(self, pose: Tensor, previous: BevMemory, state: Tensor) -> BevWarp:
        config = self.config
        if config.memory == "rotate_shift":
            angle = state[:, -1].deg2rad()
            return rotation_warp(angle, previous.present, config.model_grid, config.rotate_centre)
        ego_from_model = self._ego_from_model.to(pose.device)
        motion = ego_motion(previous.global_from_ego.double() @ ego_from_model, pose @ ego_from_model)
        return bev_warp(motion, previous.present, config.model_grid)

    def _shift(self, state: Tensor) -> Tensor:
        """How far (B, 2, 2) the reference points on the previous and on the current map move, in parts of the grid."""
        config, grid = self.config, self.config.model_grid
        moved_x, moved_y, yaw = state[:, 0], state[:, 1], state[:, 16]
        ahead = moved_x * yaw.cos() + moved_y * yaw.sin()
        right = moved_x * yaw.sin() - moved_y * yaw.cos()
        shift = torch.stack([right / (grid.x_max - grid.x_min), ahead / (grid.y_max - grid.y_min)], dim=-1)
        still = torch.zeros_like(shift)
        return torch.stack(
            [still if config.memory == "warp" else shift, shift if config.shift_both else still],
            dim=1,
        )

    def _find(self, image_from_ego: Tensor, valid: Tensor, least: Capacity) -> VisiblePillars:
        points = public_pillar_points(self.grid, self.num_heights, image_from_ego.device)
        image_from_model = image_from_ego.double() @ self._ego_from_model.to(image_from_ego.device)
        return visible_pillars(points, image_from_model, valid, self.image_size, least, self._rule)


def public_pillar_points(grid: BevGrid, num_heights: int, device: torch.device | str | None = None) -> Tensor:
    """Reference points (Q, Z, 3) [m]: cell centres row by row, evenly between half a metre from a pillar's ends."""
    flat = grid.cell_centres(device).flatten(0, 1)
    heights = torch.linspace(grid.z_min + END_DISTANCE, grid.z_max - END_DISTANCE, num_heights, device=device)
    spread = (len(flat), num_heights)
    return torch.cat([flat[:, None].expand(*spread, 2), heights[None, :, None].expand(*spread, 1)], dim=-1)


def ego_state(pose: Tensor, past: Tensor, motion: Tensor | None) -> Tensor:
    """The 18 numbers (B, 18) float64 that nuScenes takes from the CAN bus and the public network reads.

    0-2 translation since the previous frame [m] in global axes; 3-6 rotation of the ego pose as w x y z; 7-9
    acceleration [m/s2], 10-12 turn rates [rad/s] and 13-15 velocity [m/s] in the ego frame; 16 yaw [rad] in 0 ... 2 pi;
    17 change of yaw [degrees]. Deviation: 17 is wrapped, where the public code gives 359 degrees for -1.

    Args:
        pose: global_from_ego (B, 4, 4) float64.
        past: That of the previous frame; the same pose where there is none.
        motion: (B, 9), numbers 7-15; None where they are unknown, which counts as zeros as in scenes of nuScenes
            without CAN data.
    """
    yaw, past_yaw = (torch.atan2(entry[:, 1, 0], entry[:, 0, 0]) for entry in (pose, past))
    turned = (yaw - past_yaw + math.pi) % (2 * math.pi) - math.pi
    known = pose.new_zeros(len(pose), 9) if motion is None else motion.to(pose)
    parts = [
        pose[:, :3, 3] - past[:, :3, 3],
        quaternions_of(pose[:, :3, :3]),
        known,
        (yaw % (2 * math.pi)).unsqueeze(-1),
        turned.rad2deg().unsqueeze(-1),
    ]
    return torch.cat(parts, dim=-1)


def quaternions_of(rotation: Tensor) -> Tensor:
    """Unit quaternions w x y z (B, 4), w not negative, of rotations (B, 3, 3)."""
    m = rotation
    trace = [
        1 + m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2],
        1 + m[:, 0, 0] - m[:, 1, 1] - m[:, 2, 2],
        1 - m[:, 0, 0] + m[:, 1, 1] - m[:, 2, 2],
        1 - m[:, 0, 0] - m[:, 1, 1] + m[:, 2, 2],
    ]
    w, x, y, z = (0.5 * entry.clamp(min=0).sqrt() for entry in trace)
    signs = (m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1])
    turned = [torch.copysign(entry, sign) for entry, sign in zip((x, y, z), signs, strict=True)]
    return torch.stack([w, *turned], dim=-1)


def rotation_warp(angle: Tensor, present: Tensor, grid: BevGrid, centre: tuple[float, ...]) -> BevWarp:
    """The previous BEV turned about a cell by its nearest cells, as torchvision's `rotate` does; nothing from outside.

    Args:
        angle: (B,) float64 [rad].
        present: (B,) bool, whether there is a previous BEV.
        grid: Of the map.
        centre: x, y [cells] from the outer corner of cell (0, 0).
    """
    device = angle.device
    col = torch.arange(grid.cols, device=device, dtype=torch.float64) + 0.5 - centre[0]
    row = torch.arange(grid.rows, device=device, dtype=torch.float64) + 0.5 - centre[1]
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    from_col = (col * cosine - row[:, None] * sine + (centre[0] - 0.5)).round().flatten(1)
    from_row = (col * sine + row[:, None] * cosine + (centre[1] - 0.5)).round().flatten(1)
    inside = (from_col >= 0) & (from_col < grid.cols) & (from_row >= 0) & (from_row < grid.rows)
    index = from_row.clamp(0, grid.rows - 1) * grid.cols + from_col.clamp(0, grid.cols - 1)
    # Beside the nearest cell, the other three of a bilinear warp count nothing.
    weight = torch.stack([inside.float(), *[torch.zeros_like(inside, dtype=torch.float32)] * 3], dim=1)
    return BevWarp(index=index.long().unsqueeze(1).expand(-1, 4, -1), weight=weight, present=present)

"""What the network needs to know of cameras and motion, computed once per frame outside of it.

The network itself is a graph of static shapes: it reads this record beside the images. So data-dependent sizes, float64
and every decision about poses stay here, and the same graph runs in torch, in an exported engine and in training.

Shape legend: B batch, N cameras, Q pillars = rows * cols cells, V visible pillars of a camera (padded), Z heights,
S cameras that see a pillar (padded).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from bevdistill_ros.core.geometry import LEAST_DEPTH, invert_rigid
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.precision import without_autocast
from bevdistill_ros.model.records import BevMemory, CameraInput

MIN_DEPTH = 0.1  # [m] nearer points are not seen
FAR_OUTSIDE = 100.0  # [image sizes] further away, places of points behind a camera are not distinguished


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Least sizes of the padded axes, so that they stay the same from frame to frame.

    A rig that needs more gets more; the result never depends on the padding.
    """

    pillars: int = 1  # V
    cameras: int = 1  # S

    def __post_init__(self) -> None:
        if self.pillars < 1 or self.cameras < 1:
            raise ValueError(f"a capacity must be at least 1, but is {self.pillars} pillars and {self.cameras} cameras")


@dataclass(frozen=True, kw_only=True)
class VisiblePillars:
    """Which pillars each camera of each batch item sees and where, and where each pillar finds what was seen of it."""

    index: Tensor  # (B, N, V) int64 into the Q pillars; 0 where padded
    places: Tensor  # (B, N, V, Z, 2) float32, normalised (x, y) in the image
    seen: Tensor  # (B, N, V, Z) bool, whether the camera sees this height; nothing where padded
    slots: Tensor  # (B, Q, S) int64 into the N * V pairs of a batch item, in the order of the cameras; 0 where padded
    shares: Tensor  # (B, Q, S) float32, one over the number of cameras that see the pillar; 0 where padded

    @property
    def present(self) -> Tensor:
        """Which of the V entries are not padding: (B, N, V) bool."""
        return self.seen.any(dim=-1)

    @property
    def num_cameras(self) -> Tensor:
        """How many cameras see each pillar: (B, Q) int64."""
        return (self.shares > 0).sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class BevWarp:
    """Where each cell of the current BEV lay in the previous one: four neighbours and their bilinear weights."""

    index: Tensor  # (B, 4, Q) int64 into the cells of the previous BEV
    weight: Tensor  # (B, 4, Q) float32, 0 for a neighbour outside of the map
    present: Tensor  # (B,) bool, False where there is no previous BEV


_Record = TypeVar("_Record", VisiblePillars, BevWarp)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Everything that the network reads besides images and the previous BEV."""

    visible: VisiblePillars
    warp: BevWarp | None = None  # None where no item has a previous BEV

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in pinned memory, from which a GPU copies while the CPU goes on."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        warp = self.warp and _mapped(self.warp, change)
        return replace(self, visible=_mapped(self.visible, change), warp=warp)


class GeometryFinder:
    """Computes the geometry of frames for one network; what the cameras see is kept while the rig stays the same.

    Args:
        grid: The BEV grid.
        num_heights: Reference points of a pillar.
        image_size: Height and width of the images [px].
    """

    def __init__(self, grid: BevGrid, num_heights: int, image_size: tuple[int, int]) -> None:
        self.grid, self.num_heights, self.image_size = grid, num_heights, image_size
        self._latest: tuple[Tensor, Tensor, Capacity, VisiblePillars] | None = None
        self._points: Tensor | None = None  # of the pillars, on the device of the latest frame

    def of(self, cameras: CameraInput, previous: BevMemory | None = None, least: Capacity | None = None) -> Geometry:
        """The geometry of a batch of frames, on their device.

        Args:
            cameras: The frames; their images are not read.
            previous: The previous BEV, of which the pose and the presence count; None where no item has one.
            least: Least sizes of the padded axes; None for no more than needed.
        """
        visible = self._visible(cameras.image_from_ego, cameras.valid, least or Capacity())
        if previous is None:
            return Geometry(visible=visible)
        motion = ego_motion(previous.global_from_ego, cameras.global_from_ego)
        return Geometry(visible=visible, warp=bev_warp(motion, previous.present, self.grid))

    def _visible(self, image_from_ego: Tensor, valid: Tensor, least: Capacity) -> VisiblePillars:
        if image_from_ego.device.type != "cpu":  # to compare there would wait for the device
            return self._find(image_from_ego, valid, least)
        latest = self._latest
        known = latest is not None and torch.equal(latest[0], image_from_ego) and torch.equal(latest[1], valid)
        if latest is None or not known or latest[2] != least:
            with torch.inference_mode(False):  # so that what is kept may serve a training step later
                image_from_ego, valid = image_from_ego.clone(), valid.clone()
                latest = image_from_ego, valid, least, self._find(image_from_ego, valid, least)
            self._latest = latest
        return latest[3]

    def _find(self, image_from_ego: Tensor, valid: Tensor, least: Capacity) -> VisiblePillars:
        if self._points is None or self._points.device != image_from_ego.device:
            with torch.inference_mode(False):
                self._points = pillar_points(self.grid, self.num_heights, image_from_ego.device)
        return visible_pillars(self._points, image_from_ego, valid, self.image_size, least)


def pillar_points(grid: BevGrid, num_heights: int, device: torch.device | str | None = None) -> Tensor:
    """Reference points (Q, Z, 3) [m]: cell centres row by row, at the middles of equal slices of the grid's height."""
    flat = grid.cell_centres(device).flatten(0, 1)
    slices = (torch.arange(num_heights, device=device, dtype=torch.float32) + 0.5) / num_heights
    heights = grid.z_min + slices * (grid.z_max - grid.z_min)
    spread = (len(flat), num_heights)
    return torch.cat([flat[:, None].expand(*spread, 2), heights[None, :, None].expand(*spread, 1)], dim=-1)


@dataclass(frozen=True, kw_only=True)
class ViewRule:
    """When a camera sees a point, and which points of a pillar it samples."""

    min_depth: float = MIN_DEPTH  # [m] nearer points are not seen
    # [px] from the image's corner to the place called 0: pixel centres lie at whole numbers, so half a pixel.
    pixel_offset: float = 0.5
    whole_pillars: bool = False  # sample every height of a pillar of which a camera sees one; else those that it sees


OUR_RULE = ViewRule()


@torch.no_grad()
def visible_pillars(
    points: Tensor,
    image_from_ego: Tensor,
    valid: Tensor,
    image_size: tuple[int, int],
    least: Capacity = Capacity(),
    rule: ViewRule = OUR_RULE,
) -> VisiblePillars:
    """Find the pillars that each camera sees, each batch item by its own cameras.

    A point is seen if it is far enough in front, inside the image, and the camera is there; a pillar if any of its
    points is.

    Args:
        points: (Q, Z, 3) in the ego frame [m].
        image_from_ego: (B, N, 4, 4) float32.
        valid: (B, N) bool, False for a missing camera.
        image_size: Height and width [px].
        least: Least sizes of the padded axes.
        rule: When a point counts as seen.
    """
    shape, heights = valid.shape, points.shape[1]
    columns = points.float().flatten(0, 1).t().contiguous()
    cameras = _image_rows(image_from_ego.float().flatten(0, 1), image_size, rule), valid.flatten()
    # One by one on a CPU: the parts stay in its cache, and are too small for threads that would wait for each other.
    step = 1 if points.device.type == "cpu" else valid.numel()
    parts = [
        _looked_at(columns, rows, there, rule.min_depth)
        for rows, there in zip(*(entry.split(step) for entry in cameras), strict=True)
    ]
    scaled, seen = (torch.cat(entry).unflatten(0, shape) for entry in zip(*parts, strict=True))
    pillar = seen.unflatten(-1, (-1, heights)).any(dim=-1)
    rank = _ranks(pillar)
    width, most_cameras = _widths(pillar, rank, least)
    index, present = _packed(pillar, rank, width)
    slots, shares = _slots(pillar, rank, width, most_cameras)
    kept = (index.unsqueeze(-1) * heights + torch.arange(heights, device=index.device)).flatten(2)
    x, y, depth = scaled.gather(3, kept.unsqueeze(2).expand(-1, -1, 3, -1)).unbind(2)
    depth = depth.clamp(min=LEAST_DEPTH)
    x, y, seen = x / depth, y / depth, seen.gather(2, kept)
    if rule.whole_pillars:
        seen = pillar.gather(2, index).repeat_interleave(heights, dim=-1)
        x, y = (place.clamp(-FAR_OUTSIDE, FAR_OUTSIDE) for place in (x, y))
    else:  # points behind a camera project anywhere; parked outside the image they sample nothing
        x, y = (torch.where(seen, place, -1.0) for place in (x, y))
    places, seen = (entry.unflatten(2, (-1, heights)) for entry in (torch.stack([x, y], dim=-1), seen))
    return VisiblePillars(index=index, places=places, seen=seen & present.unsqueeze(-1), slots=slots, shares=shares)


def _image_rows(image_from_ego: Tensor, image_size: tuple[int, int], rule: ViewRule) -> Tensor:
    """Rows (M, 3, 4) that lead to x, y and depth of a point, x and y in parts of the image and times the depth."""
    height, width = image_size
    x, y, depth = image_from_ego[:, :3].unbind(1)
    return torch.stack(
        [(x + rule.pixel_offset * depth) / width, (y + rule.pixel_offset * depth) / height, depth], dim=1
    )


def _looked_at(columns: Tensor, rows: Tensor, valid: Tensor, min_depth: float) -> tuple[Tensor, Tensor]:
    """What rows of M cameras, see `_image_rows`, make of points (3, P): (M, 3, P), and whether they see them (M, P)."""
    x, y, z = columns
    scaled = rows[..., 3:]
    for axis, coordinate in enumerate((x, y, z)):  # no matrix product: TF32 would move pixels by 0.1 to 1 px
        scaled = torch.addcmul(scaled, rows[..., axis : axis + 1], coordinate)
    across, along, depth = scaled.unbind(1)
    is_inside = (torch.minimum(across, along) >= 0) & (torch.maximum(across, along) < depth)
    return scaled, is_inside & (depth > min_depth) & valid[:, None]


def _ranks(chosen: Tensor) -> Tensor:
    """How many true entries (..., Q) come before each one; of a false one, one less."""
    return chosen.cumsum(dim=-1) - 1


def _widths(pillar: Tensor, rank: Tensor, least: Capacity) -> tuple[int, int]:
    """Sizes of the padded axes for pillars (B, N, Q) bool: V and S. The one thing here that waits for the device."""
    needed = torch.stack([rank[..., -1].max() + 1, pillar.sum(dim=1).max()]).tolist()
    return max(needed[0], least.pillars), max(needed[1], least.cameras)


def _packed(chosen: Tensor, rank: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Indices (..., V) of the true entries of (..., Q), at most V of them, padded, and which are no padding."""
    place = torch.where(chosen, rank, width)  # in the result; false entries share one beyond it
    entries = torch.arange(chosen.shape[-1], device=chosen.device).expand(chosen.shape)
    index = entries.new_zeros(*chosen.shape[:-1], width + 1).scatter_(-1, place, entries)[..., :width]
    return index, torch.arange(width, device=chosen.device) <= rank[..., -1:]


def _slots(pillar: Tensor, rank: Tensor, width: int, most_cameras: int) -> tuple[Tensor, Tensor]:
    """Slots and shares (B, Q, S) of the cameras that see each pillar (B, N, Q), which keep `width` pillars each.

    Args:
        pillar: (B, N, Q) bool.
        rank: Of each pillar within its camera.
        width: V.
        most_cameras: S.
    """
    pair = rank + torch.arange(pillar.shape[1], device=pillar.device)[:, None] * width
    by_pillar = pillar.transpose(1, 2).contiguous()
    among = _ranks(by_pillar)
    order, present = _packed(by_pillar, among, most_cameras)
    slots = pair.transpose(1, 2).gather(2, order) * present
    return slots, present / (among[..., -1:] + 1).clamp(min=1)


def ego_motion(global_from_previous: Tensor, global_from_current: Tensor) -> Tensor:
    """previous_from_current (B, 4, 4) float64 of two ego poses (B, 4, 4) float64 in the same global frame."""
    return invert_rigid(global_from_previous.double()) @ global_from_current.double()


@torch.no_grad()
def bev_warp(previous_from_current: Tensor, present: Tensor, grid: BevGrid) -> BevWarp:
    """Find where the cells of a BEV lay in the previous one.

    Args:
        previous_from_current: (B, 4, 4) float64 [m]; of the motion, the part in the ground plane counts.
        present: (B,) bool, whether there is a previous BEV.
        grid: The grid, around the ego in both frames.
    """
    device = previous_from_current.device
    # In float32, places are off by some 1e-5 of a cell, and standing still would blur the map.
    with without_autocast(device.type):
        row, col = (torch.arange(count, device=device, dtype=torch.float64) for count in (grid.rows, grid.cols))
        centres = grid.metres_from_cells(torch.stack(torch.meshgrid(col, row, indexing="xy"), dim=-1))
        motion = previous_from_current.double()
        turned = torch.einsum("bij,rcj->brci", motion[:, :2, :2], centres) + motion[:, None, None, :2, 3]
        place = grid.cells_from_metres(turned).flatten(1, 2)
    index, weight = _neighbours(place, grid)
    return BevWarp(index=index, weight=weight, present=present)


def _neighbours(place: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """Cells (B, 4, Q) around places (B, Q, 2) (column, row), and bilinear weights (B, 4, Q) float32."""
    low = place.floor()
    indices, weights = [], []
    for step_x in (0, 1):
        for step_y in (0, 1):
            col, row = low[..., 0] + step_x, low[..., 1] + step_y
            weight = (1 - (place[..., 0] - col).abs()) * (1 - (place[..., 1] - row).abs())
            inside = (col >= 0) & (col < grid.cols) & (row >= 0) & (row < grid.rows)
            indices.append((row.clamp(0, grid.rows - 1) * grid.cols + col.clamp(0, grid.cols - 1)).long())
            weights.append((weight * inside).float())
    return torch.stack(indices, dim=1), torch.stack(weights, dim=1)


def _mapped(record: _Record, change: Callable[[Tensor], Tensor]) -> _Record:
    return replace(record, **{field.name: change(getattr(record, field.name)) for field in fields(record)})

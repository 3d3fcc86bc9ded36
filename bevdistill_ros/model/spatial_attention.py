"""Spatial cross-attention of BEVFormer (arXiv 2203.17270), section 3.3: BEV pillars look at the images that see them.

Deviations: of a pillar's reference points only those that a camera sees are sampled there, and the attention weights
are normalised over these (BEVFormer samples all of them as soon as one is seen, though the others may lie behind the
camera); the query's positional part takes part; and there is no embedding of the camera's index, so that the order of
the cameras is of no consequence.

Shape legend: B batch, N cameras, Q pillars, V visible pillars of a camera (padded), Z heights, G heads, L levels, P
points a height, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bevdistill_ros.core.geometry import project_points
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.deformable import deformable_sample, level_scale, ring_offsets
from bevdistill_ros.model.layers import project_map

MIN_DEPTH = 0.1  # [m] nearer points are not seen


@dataclass(frozen=True, kw_only=True)
class VisiblePillars:
    """Which pillars each camera of each batch item sees, and where."""

    index: Tensor  # (B, N, V) int64 into the Q pillars; 0 where padded
    present: Tensor  # (B, N, V) bool, False where padded
    places: Tensor  # (B, N, V, Z, 2) float32, normalised (x, y) in the image
    seen: Tensor  # (B, N, V, Z) bool, whether the camera sees this height
    num_cameras: Tensor  # (B, Q) int64, how many cameras see the pillar


def pillar_points(grid: BevGrid, num_heights: int, device: torch.device | str | None = None) -> Tensor:
    """Reference points (Q, Z, 3) [m]: cell centres row by row, at the middles of equal slices of the grid's height."""
    flat = grid.cell_centres(device).flatten(0, 1)
    slices = (torch.arange(num_heights, device=device, dtype=torch.float32) + 0.5) / num_heights
    heights = grid.z_min + slices * (grid.z_max - grid.z_min)
    spread = (len(flat), num_heights)
    return torch.cat([flat[:, None].expand(*spread, 2), heights[None, :, None].expand(*spread, 1)], dim=-1)


@torch.no_grad()
def visible_pillars(
    points: Tensor, image_from_ego: Tensor, valid: Tensor, image_size: tuple[int, int]
) -> VisiblePillars:
    """Find the pillars that each camera sees, each batch item by its own cameras.

    A point is seen if it is at least `MIN_DEPTH` in front, inside the image, and the camera is there; a pillar if any
    of its points is.

    Args:
        points: (Q, Z, 3) in the ego frame [m].
        image_from_ego: (B, N, 4, 4) float32.
        valid: (B, N) bool, False for a missing camera.
        image_size: Height and width [px].
    """
    with torch.autocast(points.device.type, enabled=False):
        pixels, depth = project_points(image_from_ego.float(), points.flatten(0, 1))
    # Pixel centres lie at whole numbers, so the image begins half a pixel before 0.
    places = (pixels + 0.5) / pixels.new_tensor([image_size[1], image_size[0]])
    seen = (depth > MIN_DEPTH) & (places >= 0).all(-1) & (places < 1).all(-1) & valid[..., None]
    seen = seen.unflatten(-1, points.shape[:2])
    # Points behind a camera project anywhere; parked outside the image they sample nothing.
    places = places.unflatten(-2, points.shape[:2]).masked_fill(~seen.unsqueeze(-1), -1.0)
    pillar = seen.any(dim=-1)
    index, present = _packed(pillar)
    rows = index[..., None].expand(*index.shape, points.shape[1])
    return VisiblePillars(
        index=index,
        present=present,
        places=places.gather(2, rows[..., None].expand(*rows.shape, 2)),
        seen=seen.gather(2, rows) & present.unsqueeze(-1),
        num_cameras=pillar.sum(dim=1),
    )


class RigView:
    """Which pillars the cameras of a rig see, found once a rig: another rig, or another missing camera, is a new one.

    Args:
        grid: The BEV grid.
        num_heights: Reference points of a pillar.
        image_size: Height and width of the images [px].
    """

    def __init__(self, grid: BevGrid, num_heights: int, image_size: tuple[int, int]) -> None:
        self.grid, self.num_heights, self.image_size = grid, num_heights, image_size
        self._latest: tuple[Tensor, Tensor, VisiblePillars] | None = None

    def of(self, image_from_ego: Tensor, valid: Tensor) -> VisiblePillars:
        """What cameras with image_from_ego (B, N, 4, 4), of which valid (B, N) are there, see."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # a graph must not remember the rig of its making
            return self._find(image_from_ego, valid)
        if self._latest is None or not (_same(self._latest[0], image_from_ego) and _same(self._latest[1], valid)):
            with torch.inference_mode(False):  # so that what is remembered may serve a training step later
                image_from_ego, valid = image_from_ego.clone(), valid.clone()
                self._latest = image_from_ego, valid, self._find(image_from_ego, valid)
        return self._latest[2]

    def _find(self, image_from_ego: Tensor, valid: Tensor) -> VisiblePillars:
        points = pillar_points(self.grid, self.num_heights, image_from_ego.device)
        return visible_pillars(points, image_from_ego, valid, self.image_size)


def _same(first: Tensor, second: Tensor) -> bool:
    return first.device == second.device and torch.equal(first, second)


def _packed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (..., V) of the true entries of (..., Q), padded to the largest count, and which are no padding."""
    count = chosen.sum(dim=-1)
    width = max(int(count.max()), 1)
    present = torch.arange(width, device=chosen.device) < count.unsqueeze(-1)
    index = torch.zeros(present.shape, dtype=torch.int64, device=chosen.device)
    index[present] = chosen.nonzero()[:, -1]
    return index, present


class SpatialCrossAttention(nn.Module):
    """Pillars gather features around their reference points from the cameras that see them, and average over these.

    Args:
        embed_dim: Channels of BEV and images.
        num_heads: Attention heads.
        num_levels: Image feature levels.
        num_heights: Reference points of a pillar.
        points_per_height: Samples per head, level and reference point.
    """

    def __init__(
        self, *, embed_dim: int, num_heads: int, num_levels: int, num_heights: int, points_per_height: int
    ) -> None:
        super().__init__()
        self.shape = (num_heads, num_levels, num_heights, points_per_height)
        samples = num_heads * num_levels * num_heights * points_per_height
        self.sampling_offsets = nn.Linear(embed_dim, 2 * samples)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_projection = nn.Linear(embed_dim, embed_dim)
        self.output_projection = nn.Linear(embed_dim, embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        """The first sample of a height starts on the reference point itself, for a sharp BEV from the first step."""
        heads, levels, heights, points = self.shape
        ring = ring_offsets(heads, levels, points)
        ring = (ring - ring[:, :, :1])[:, :, None].expand(heads, levels, heights, points, 2)
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(ring.flatten())
        for layer in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, visible: VisiblePillars, levels: Sequence[Tensor]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C), with its positional part added.
            visible: What the cameras see.
            levels: L maps (B * N, C, h, w).

        Returns:
            (B, Q, C), without the residual.
        """
        batch, queries, channels = query.shape
        row = visible.index + torch.arange(batch, device=query.device)[:, None, None] * queries
        looking = query.flatten(0, 1).index_select(0, row.flatten()).reshape(-1, row.shape[-1], channels)
        found = self._sample(looking, visible, levels) * visible.present.flatten(0, 1).unsqueeze(-1)
        gathered = found.new_zeros(batch * queries, channels).index_add(0, row.flatten(), found.flatten(0, 1))
        mean = gathered.reshape(batch, queries, channels) / visible.num_cameras.clamp(min=1).unsqueeze(-1)
        output: Tensor = self.output_projection(mean)
        return output

    def _sample(self, looking: Tensor, visible: VisiblePillars, levels: Sequence[Tensor]) -> Tensor:
        """What each camera shows to its pillars (B * N, V, C): (B * N, V, C)."""
        heads, num_levels, heights, points = self.shape
        lead = looking.shape[:2]
        values = [project_map(self.value_projection, level) for level in levels]
        offsets = self.sampling_offsets(looking).float().reshape(*lead, *self.shape, 2)
        scale = level_scale(levels, offsets).reshape(num_levels, 1, 1, 2)
        locations = visible.places.flatten(0, 1)[:, :, None, None, :, None, :] + offsets / scale
        hidden = ~visible.seen.flatten(0, 1)[:, :, None, None, :, None]
        scores = self.attention_weights(looking).float().reshape(*lead, *self.shape)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        weights = scores.flatten(3).softmax(dim=-1).reshape(*lead, heads, num_levels, heights * points)
        return deformable_sample(values, locations.flatten(4, 5), weights)

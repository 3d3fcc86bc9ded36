"""The public BEVFormer (arXiv 2203.17270, github.com/fundamentalvision/BEVFormer) on our blocks, to run its weights.

Differences from our own student, `BevFormer`: an embedding of ego motion (CAN bus) is added to the BEV queries, and one
of each camera to its features; self-attention reads the first layer's queries as the current map where there is a past,
and each layer's own cells where there is none; cross-attention to images takes no positional part; queries of the
decoder have a learned position, and prediction heads two hidden layers. The network has a frame of its own (see
`PublicStudentConfig.ego_from_model`); its predictions are turned to the ego frame at the end.

Deviation: previous and current map have a value projection each, which hold the same published weights.

Shape legend: B batch, N cameras, Q cells, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bevdistill_ros.core.geometry import invert_rigid, transform_points
from bevdistill_ros.model.config import STAGE_STRIDES
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.encoder import EncoderLayer
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.geometry import VisiblePillars
from bevdistill_ros.model.layers import FeedForward, maps_of
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.public_geometry import EGO_STATE_SIZE, PublicGeometry, PublicGeometryFinder
from bevdistill_ros.model.recompute import recomputed
from bevdistill_ros.model.records import SetPrediction
from bevdistill_ros.model.resnet import ResNet
from bevdistill_ros.model.spatial_attention import SpatialCrossAttention
from bevdistill_ros.model.student import CameraStudent
from bevdistill_ros.model.temporal_attention import TemporalSelfAttention, warp_bev


class EgoStateEmbedding(nn.Sequential):
    """Ego motion (B, 18) as channels (B, C) that are added to every BEV query."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__(
            nn.Linear(EGO_STATE_SIZE, embed_dim // 2),
            nn.ReLU(),
            nn.Linear(embed_dim // 2, embed_dim),
            nn.ReLU(),
            nn.LayerNorm(embed_dim),
        )


class PublicEncoderLayer(EncoderLayer):
    """As ours, except that the cross-attention to images does not see the positional part of the cells."""

    def forward(
        self,
        cells: Tensor,
        position: Tensor,
        reference: Tensor,
        maps: Sequence[Tensor],
        visible: VisiblePillars,
        levels: Sequence[Tensor],
    ) -> Tensor:
        """Update cells (B, Q, C); see `EncoderLayer.forward`. References are (B, Q, 2, 2), by map."""
        cells = self.norms[0](cells + self.dropout(self.self_attention(cells + position, reference, maps)))
        cells = self.norms[1](cells + self.dropout(self.cross_attention(cells, visible, levels)))
        output: Tensor = self.norms[2](cells + self.dropout(self.feed_forward(cells)))
        return output


class PublicBevEncoder(nn.Module):
    """Images to BEV, on the model's own grid.

    Args:
        config: Of the student.
    """

    def __init__(self, config: PublicStudentConfig) -> None:
        super().__init__()
        self.grid, embed_dim, num_heads = config.model_grid, config.embed_dim, config.num_heads
        self.recompute = False  # whether training saves memory by computing activations twice
        self.queries = nn.Parameter(torch.randn(self.grid.rows * self.grid.cols, embed_dim))
        self.row_position = nn.Parameter(torch.rand(self.grid.rows, embed_dim // 2))
        self.col_position = nn.Parameter(torch.rand(self.grid.cols, embed_dim // 2))
        self.level_embedding = nn.Parameter(torch.randn(config.num_levels, embed_dim))
        self.camera_embedding = nn.Parameter(torch.randn(len(config.cameras), embed_dim))
        self.ego_state = EgoStateEmbedding(embed_dim)
        self.layers = nn.ModuleList(
            PublicEncoderLayer(
                TemporalSelfAttention(embed_dim=embed_dim, num_heads=num_heads, num_points=config.bev_points),
                SpatialCrossAttention(
                    embed_dim=embed_dim,
                    num_heads=num_heads,
                    num_levels=config.num_levels,
                    num_heights=config.num_heights,
                    points_per_height=config.points_per_height,
                ),
                FeedForward(embed_dim, config.feedforward_dim, config.dropout),
                config.dropout,
            )
            for _ in range(config.encoder_layers)
        )

    def forward(self, levels: Sequence[Tensor], geometry: PublicGeometry, previous_bev: Tensor | None) -> Tensor:
        """Encode.

        Args:
            levels: Image features (B * N, C, h, w), finest first.
            geometry: What the cameras see, where the previous BEV lies, and ego motion.
            previous_bev: The previous BEV (B, C, rows, cols); None where no item has one.

        Returns:
            BEV (B, C, rows, cols).

        Raises:
            ValueError: `previous_bev` is of another shape.
        """
        batch, rows, cols = len(geometry.ego_state), self.grid.rows, self.grid.cols
        queries = self.queries + self.ego_state(geometry.ego_state.to(self.queries.dtype)).unsqueeze(1)
        levels = self._embedded(levels, batch)
        reference = self.grid.normalize(self.grid.cell_centres(queries.device).flatten(0, 1))
        by_map = reference[None, :, None] + geometry.shift.unsqueeze(1)
        past = self._past(previous_bev, geometry, queries)
        position, cells = self._position(), queries
        for layer in self.layers:
            current = maps_of(cells, rows, cols)
            inputs = cells, position, by_map, self._maps(current, past), geometry.visible, levels
            cells = recomputed(layer, *inputs) if self.recompute else layer(*inputs)
        return maps_of(cells, rows, cols)

    def _embedded(self, levels: Sequence[Tensor], batch: int) -> list[Tensor]:
        """Levels with the embeddings of their cameras and of themselves."""
        cameras = self.camera_embedding.repeat(batch, 1)
        return [
            level + (cameras + bias)[:, :, None, None] for level, bias in zip(levels, self.level_embedding, strict=True)
        ]

    def _past(
        self, bev: Tensor | None, geometry: PublicGeometry, queries: Tensor
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Where there is a past (B, 1, 1, 1), the previous map and the first layer's queries as a map; or None."""
        if bev is None or geometry.warp is None:
            return None
        expected = (len(queries), queries.shape[-1], self.grid.rows, self.grid.cols)
        if tuple(bev.shape) != expected:
            raise ValueError(f"the previous BEV must be of shape {expected}, but is of shape {tuple(bev.shape)}")
        present = geometry.warp.present[:, None, None, None]
        return present, warp_bev(bev, geometry.warp), maps_of(queries, self.grid.rows, self.grid.cols)

    @staticmethod
    def _maps(current: Tensor, past: tuple[Tensor, Tensor, Tensor] | None) -> list[Tensor]:
        """What self-attention reads: previous map and first queries, or without a past the layer's own cells twice."""
        if past is None:
            return [current, current]
        present, previous, first = past
        return [torch.where(present, entry.to(current.dtype), current) for entry in (previous, first)]

    def _position(self) -> Tensor:
        """Positional part (Q, C) of the cells, row by row."""
        rows, cols = self.grid.rows, self.grid.cols
        across = self.col_position[None, :].expand(rows, -1, -1)
        along = self.row_position[:, None].expand(-1, cols, -1)
        return torch.cat([across, along], dim=-1).flatten(0, 1)


class PublicBevFormer(CameraStudent):
    """Cameras to boxes, as the public code computes them.

    Args:
        config: Settings; see `PublicStudentConfig`.
    """

    config: PublicStudentConfig

    def __init__(self, config: PublicStudentConfig) -> None:
        super().__init__(config)
        self.ego_from_model: Tensor
        pose = torch.tensor(config.ego_from_model, dtype=torch.float64).reshape(4, 4)
        self.register_buffer("ego_from_model", pose.float(), persistent=False)
        self.backbone = ResNet(
            name=config.backbone,
            width=config.backbone_width,
            stages=[STAGE_STRIDES.index(stride) + 1 for stride in config.stage_strides],
            frozen_stages=config.frozen_stages,
            frozen_norm=config.backbone_norm == "frozen",
            style=config.backbone_style,
            deformable_stages=config.backbone_deformable_stages,
        )
        self.pyramid = FeaturePyramid(
            channels_in=self.backbone.channels, channels=config.embed_dim, num_levels=config.num_levels, norm=False
        )
        self.encoder = PublicBevEncoder(config)
        self.decoder = SetDecoder(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_layers=config.decoder_layers,
            num_queries=config.num_queries,
            num_points=config.decoder_points,
            num_levels=1,
            grid=config.model_grid,
            feedforward_dim=config.feedforward_dim,
            dropout=config.dropout,
            query_position="learned",
            head_layers=2,
        )
        self.geometry = PublicGeometryFinder(config)

    def map_in_ego(self, bev: Tensor) -> Tensor:
        """The BEV (B, C, rows, cols) on `config.grid` in the ego frame, bilinear; zero where its own grid ends."""
        grid = self.config.grid
        centres = grid.cell_centres(bev.device).flatten(0, 1)
        # Of the tilt only what it does on the ground is of interest here.
        points = torch.cat([centres, torch.zeros_like(centres[:, :1])], dim=-1)
        places = transform_points(invert_rigid(self.ego_from_model), points)[:, :2]
        sampled = self.config.model_grid.sample(bev, places.expand(len(bev), -1, -1))
        return maps_of(sampled, grid.rows, grid.cols)

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (B, N, 3, H, W) uint8 as (B * N, 3, H, W), normalised; padding is exactly zero.

        Padding is recognised by its colour, the rounded mean, which an image hardly has and which differs from zero by
        less than half a grey level.
        """
        pixels = images.flatten(0, 1).to(self.image_mean.dtype)
        is_padding = (pixels == self.image_mean.round()).all(dim=1, keepdim=True)
        return ((pixels - self.image_mean) / self.image_std).masked_fill(is_padding, 0.0)

    def in_ego(self, predictions: SetPrediction) -> SetPrediction:
        """Predictions of the model's own frame in the ego frame."""
        x, y, log_width, log_length, z, log_height, sine, cosine, vx, vy = predictions.codes.unbind(dim=-1)
        rotation, translation = self.ego_from_model[:3, :3], self.ego_from_model[:3, 3]
        centre = torch.stack([x, y, z], dim=-1) @ rotation.T + translation
        heading = torch.stack([cosine, sine], dim=-1) @ rotation[:2, :2].T
        velocity = torch.stack([vx, vy], dim=-1) @ rotation[:2, :2].T
        columns = (
            *centre.unbind(dim=-1)[:2],
            log_width,
            log_length,
            centre[..., 2],
            log_height,
            heading[..., 1],
            heading[..., 0],
            velocity[..., 0],
            velocity[..., 1],
        )
        codes = torch.stack(columns, dim=-1)
        return SetPrediction(logits=predictions.logits, codes=codes, features=predictions.features)

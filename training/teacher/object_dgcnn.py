"""The LiDAR teacher: Object-DGCNN (arXiv 2110.06923) on dynamic pillars.

points -> pillars -> convolutional BEV backbone -> feature pyramid -> deformable encoder -> set decoder

Deviations: dynamic pillars in the place of voxels with sparse 3D convolutions, so that no CUDA package is needed; and
the decoder's reference points, see `bevdistill_ros.model.decoder`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.query_selection import QuerySelection
from training.teacher.backbone import BevBackbone
from training.teacher.bev_encoder import BevEncoder
from training.teacher.graph_interaction import GraphInteraction
from training.teacher.output import TeacherOutput
from training.teacher.pillars import PillarEncoder

PILLAR_STRIDES: tuple[int, ...] = (1, 2, 4, 8)
QUERY_INTERACTIONS: tuple[str, ...] = ("attention", "dgcnn")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Everything that fixes the teacher's graph; the defaults are the paper's scale.

    Raises:
        ValueError: A value is out of range, or two values do not fit each other.
    """

    grid: BevGrid = field(default_factory=BevGrid)  # of the finest level
    pillar_stride: int = (
        4  # pillars along a cell of the finest level: 0.8 m cells hold 0.2 m pillars; one of 1, 2, 4, 8
    )
    point_channels: tuple[int, ...] = (64, 64)  # layers of the point network

    stage_channels: tuple[int, ...] = (128, 256)  # of the backbone's stages, finest first
    stage_layers: int = 6  # convolutions of a stage, its first, strided one included
    num_levels: int = 4  # of the feature pyramid, each with half the rows and columns of the one before

    embed_dim: int = 256  # channels of the pyramid and the queries
    num_heads: int = 8
    num_points: int = 4  # BEV samples per head and level
    feedforward_dim: int = 512  # hidden channels of the feed-forward blocks
    dropout: float = 0.1

    encoder_layers: int = 2  # 0 leaves the encoder out
    decoder_layers: int = 6
    num_queries: int = 300
    query_selection: QuerySelection = "learned"  # or heatmap: start on the peaks of a class heatmap, learns faster
    query_interaction: Literal["attention", "dgcnn"] = "attention"  # BEVDistill's, or Object-DGCNN's own dynamic graph
    num_neighbours: int = 16  # of a query in the dynamic graph

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_fit()

    @property
    def pillar_grid(self) -> BevGrid:
        """The grid of the pillars."""
        return self.grid.with_cells(self.grid.rows * self.pillar_stride, self.grid.cols * self.pillar_stride)

    def _check_ranges(self) -> None:
        if self.pillar_stride not in PILLAR_STRIDES:
            allowed = ", ".join(map(str, PILLAR_STRIDES))
            raise ValueError(f"teacher.pillar_stride must be one of {allowed}, but is {self.pillar_stride}")
        if self.query_interaction not in QUERY_INTERACTIONS:
            allowed = ", ".join(QUERY_INTERACTIONS)
            raise ValueError(f"teacher.query_interaction must be one of {allowed}, but is {self.query_interaction!r}")
        for name in "point_channels", "stage_channels":
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(
                    f"teacher.{name} must hold at least one number, each at least 1, but is {getattr(self, name)}"
                )
        counts = "stage_layers embed_dim num_heads num_points feedforward_dim decoder_layers num_queries num_neighbours"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"teacher.{name} must be at least 1, but is {getattr(self, name)}")
        if self.encoder_layers < 0:
            raise ValueError(f"teacher.encoder_layers must not be negative, but is {self.encoder_layers}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"teacher.dropout must be in [0, 1), but is {self.dropout}")

    def _check_fit(self) -> None:
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"teacher.embed_dim must be divisible by num_heads ({self.num_heads}), but is {self.embed_dim}"
            )
        stages = len(self.stage_channels)
        if self.num_levels < stages:
            raise ValueError(
                f"teacher.num_levels must be at least the number of stages ({stages}), but is {self.num_levels}"
            )
        coarsest = 2 ** (self.num_levels - 1)
        if self.grid.rows % coarsest or self.grid.cols % coarsest:
            raise ValueError(
                f"teacher.grid must have rows and cols divisible by {coarsest} for {self.num_levels} levels, "
                f"but has {self.grid.rows} and {self.grid.cols}"
            )
        if self.query_interaction == "dgcnn" and self.num_neighbours > self.num_queries:
            raise ValueError(
                f"teacher.num_neighbours must not exceed num_queries ({self.num_queries}), but is {self.num_neighbours}"
            )


class ObjectDgcnn(nn.Module):
    """The LiDAR teacher.

    Args:
        config: Its settings.
    """

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.pillars = PillarEncoder(grid=config.pillar_grid, channels=config.point_channels)
        self.backbone = BevBackbone(
            in_channels=self.pillars.channels,
            num_halvings=config.pillar_stride.bit_length() - 1,
            stage_channels=config.stage_channels,
            stage_layers=config.stage_layers,
        )
        self.pyramid = FeaturePyramid(
            channels_in=config.stage_channels, channels=config.embed_dim, num_levels=config.num_levels
        )
        self.encoder = _build_encoder(config) if config.encoder_layers else None
        self.decoder = _build_decoder(config)

    def forward(self, points: Sequence[Tensor]) -> TeacherOutput:
        """Detect objects in clouds.

        Args:
            points: B x (P_b, 5) float32 [x y z intensity lag] in the ego frame: m, 0...1, s; those outside the grid are
                dropped.

        Returns:
            BEV maps on the configured grid, and the predictions of every decoder layer.
        """
        levels: list[Tensor] = self.pyramid(self.backbone(self.pillars(points)))
        encoded: list[Tensor] | None = self.encoder(levels) if self.encoder is not None else None
        return TeacherOutput(
            finest=levels[0],
            encoded=encoded[0] if encoded is not None else None,
            grid=self.grid,
            predictions=self.decoder(encoded or levels),
        )


def _build_encoder(config: TeacherConfig) -> BevEncoder:
    return BevEncoder(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_layers=config.encoder_layers,
        num_levels=config.num_levels,
        num_points=config.num_points,
        feedforward_dim=config.feedforward_dim,
        dropout=config.dropout,
    )


def _build_decoder(config: TeacherConfig) -> SetDecoder:
    def graph() -> nn.Module:
        return GraphInteraction(embed_dim=config.embed_dim, num_neighbours=config.num_neighbours)

    return SetDecoder(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_layers=config.decoder_layers,
        num_queries=config.num_queries,
        num_points=config.num_points,
        num_levels=config.num_levels,
        grid=config.grid,
        feedforward_dim=config.feedforward_dim,
        dropout=config.dropout,
        query_selection=config.query_selection,
        query_interaction=graph if config.query_interaction == "dgcnn" else None,
    )

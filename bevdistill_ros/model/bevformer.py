"""The camera student: BEVFormer (arXiv 2203.17270), backbone -> FPN -> BEV encoder -> set decoder.

Shape legend: B batch, N cameras, C channels.
"""

from bevdistill_ros.model.backbone import Backbone
from bevdistill_ros.model.config import STAGE_STRIDES, StudentConfig
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.efficientnet import EfficientNetLite0
from bevdistill_ros.model.encoder import BevEncoder
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.geometry import GeometryFinder
from bevdistill_ros.model.resnet import ResNet
from bevdistill_ros.model.student import CameraStudent


class BevFormer(CameraStudent):
    """Our own student: cameras to boxes, through a bird's-eye view.

    Args:
        config: Settings; see `StudentConfig`.
    """

    config: StudentConfig

    def __init__(self, config: StudentConfig) -> None:
        super().__init__(config)
        self.backbone = _backbone(config)
        self.pyramid = FeaturePyramid(
            channels_in=self.backbone.channels, channels=config.embed_dim, num_levels=config.num_levels
        )
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        self.geometry = GeometryFinder(config.grid, config.num_heights, (config.image_height, config.image_width))


def _backbone(config: StudentConfig) -> Backbone:
    stages = [STAGE_STRIDES.index(stride) + 1 for stride in config.stage_strides]
    frozen_norm = config.backbone_norm == "frozen"
    if config.backbone == "efficientnet_lite0":
        return EfficientNetLite0(stages=stages, frozen_stages=config.frozen_stages, frozen_norm=frozen_norm)
    return ResNet(
        name=config.backbone,
        width=config.backbone_width,
        stages=stages,
        frozen_stages=config.frozen_stages,
        frozen_norm=frozen_norm,
        style=config.backbone_style,
        deformable_stages=config.backbone_deformable_stages,
    )


def _encoder(config: StudentConfig) -> BevEncoder:
    return BevEncoder(
        grid=config.grid,
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_layers=config.encoder_layers,
        num_levels=config.num_levels,
        num_heights=config.num_heights,
        points_per_height=config.points_per_height,
        bev_points=config.bev_points,
        feedforward_dim=config.feedforward_dim,
        dropout=config.dropout,
        temporal=config.temporal,
    )


def _decoder(config: StudentConfig) -> SetDecoder:
    return SetDecoder(
        embed_dim=config.embed_dim,
        num_heads=config.num_heads,
        num_layers=config.decoder_layers,
        num_queries=config.num_queries,
        num_points=config.decoder_points,
        num_levels=1,
        grid=config.grid,
        feedforward_dim=config.feedforward_dim,
        dropout=config.dropout,
        query_selection=config.query_selection,
    )

"""The camera student: BEVFormer (arXiv 2203.17270), backbone -> FPN -> BEV encoder -> set decoder.

Shape legend: B batch, N cameras, C channels.
"""

import torch
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone
from bevdistill_ros.model.config import STAGE_STRIDES, StudentConfig
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.efficientnet import EfficientNetLite0
from bevdistill_ros.model.encoder import BevEncoder
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.geometry import Geometry, GeometryFinder
from bevdistill_ros.model.records import BevMemory, CameraInput, StudentOutput
from bevdistill_ros.model.resnet import ResNet


class BevFormer(nn.Module):
    """Cameras to boxes, through a bird's-eye view.

    Args:
        config: Settings; see `StudentConfig`.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.image_mean: Tensor
        self.image_std: Tensor
        self.register_buffer("image_mean", torch.tensor(config.image_mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).reshape(3, 1, 1), persistent=False)
        self.backbone = _backbone(config)
        self.pyramid = FeaturePyramid(
            channels_in=self.backbone.channels, channels=config.embed_dim, num_levels=config.num_levels
        )
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)
        self.geometry = GeometryFinder(config.grid, config.num_heights, (config.image_height, config.image_width))

    def forward(self, cameras: CameraInput, previous: BevMemory | None = None) -> StudentOutput:
        """Detect in camera frames: their geometry, then the network.

        Args:
            cameras: A batch of camera frames, in the order of `config.cameras`.
            previous: The previous BEV of a temporal student; None where no item has one.

        Returns:
            BEV and predictions, in float32.

        Raises:
            ValueError: The images or the previous BEV do not fit the settings.
        """
        return self.network(cameras.images, self.geometry.of(cameras, previous), previous.bev if previous else None)

    def encode(self, cameras: CameraInput, previous: BevMemory | None = None) -> Tensor:
        """The BEV (B, C, rows, cols) float32 of camera frames, without the decoder; see `forward`."""
        return self._encode(cameras.images, self.geometry.of(cameras, previous), previous.bev if previous else None)

    def network(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None = None) -> StudentOutput:
        """The network proper: static shapes, no float64, and nothing that waits for the device.

        Args:
            images: (B, N, 3, H, W) uint8 RGB.
            geometry: Of these frames, see `geometry`.
            previous_bev: (B, C, rows, cols) float32 where the geometry has a warp; what is not present is not read.

        Returns:
            BEV and predictions, in float32.

        Raises:
            ValueError: The images or the previous BEV do not fit the settings.
        """
        bev = self._encode(images, geometry, previous_bev)
        return StudentOutput(bev=bev, predictions=self.decoder([bev]))

    def _encode(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Tensor:
        self._check(images)
        levels = self.pyramid(self.backbone(self._normalised(images)))
        bev: Tensor = self.encoder(levels, geometry, previous_bev)
        return bev.float()

    def recompute_activations(self) -> None:
        """From now on, training keeps no activations inside the blocks of backbone and encoder but computes them twice.

        It takes a fraction of the memory and about a third more time; results are the same.
        """
        self.backbone.recompute = self.encoder.recompute = True

    def _check(self, images: Tensor) -> None:
        config = self.config
        expected = (len(config.cameras), 3, config.image_height, config.image_width)
        if tuple(images.shape[1:]) != expected or images.dtype != torch.uint8:
            raise ValueError(
                f"the student takes uint8 images (B, {', '.join(map(str, expected))}), "
                f"but got {images.dtype} {tuple(images.shape)}"
            )

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (B, N, 3, H, W) uint8 as (B * N, 3, H, W) of about zero mean and unit spread."""
        pixels = images.flatten(0, 1).to(self.image_mean.dtype)
        return (pixels - self.image_mean) / self.image_std


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

"""What every camera student shares: images and geometry in, BEV and predictions out.

Shape legend: B batch, N cameras, C channels.
"""

import torch
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone
from bevdistill_ros.model.config import StudentConfig
from bevdistill_ros.model.decoder import SetDecoder
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.geometry import Geometry, GeometryFinder
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.records import BevMemory, CameraInput, SetPrediction, StudentOutput

StudentSettings = StudentConfig | PublicStudentConfig


class CameraStudent(nn.Module):
    """A network from camera images to boxes, through a bird's-eye view; a subclass makes its parts.

    Args:
        config: Its settings.
    """

    config: StudentSettings
    backbone: Backbone
    pyramid: FeaturePyramid
    encoder: nn.Module
    decoder: SetDecoder
    geometry: GeometryFinder

    def __init__(self, config: StudentSettings) -> None:
        super().__init__()
        self.config = config
        self.image_mean: Tensor
        self.image_std: Tensor
        self.register_buffer("image_mean", torch.tensor(config.image_mean).reshape(3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(config.image_std).reshape(3, 1, 1), persistent=False)

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
        return StudentOutput(bev=bev, predictions=self.in_ego(self.decoder([bev])))

    def in_ego(self, predictions: SetPrediction) -> SetPrediction:
        """Predictions of the network in the ego frame; here they are."""
        return predictions

    def map_in_ego(self, bev: Tensor) -> Tensor:
        """A BEV (B, C, rows, cols) of the network on `config.grid` in the ego frame, to compare it; here it is."""
        return bev

    def _encode(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Tensor:
        self._check(images)
        levels = self.pyramid(self.backbone(self._normalised(images)))
        bev: Tensor = self.encoder(levels, geometry, previous_bev)
        return bev.float()

    def recompute_activations(self) -> None:
        """From now on, training keeps no activations inside the blocks of backbone and encoder but computes them twice.

        It takes a fraction of the memory and about a third more time; results are the same.
        """
        self.backbone.recompute = True
        self.encoder.recompute = True  # type: ignore[assignment]  # a flag of every encoder of ours

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

"""Convolutional BEV backbone after SECOND (Sensors 2018): plain stages, each at half the rows and columns.

Deviation: a stem of strided convolutions carries fine pillars to the finest BEV level before the first stage, in the
place of SECOND's sparse 3D convolutions.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def conv_norm_relu(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU; a stride of 2 halves rows and columns."""
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class BevBackbone(nn.Module):
    """Stem and stages.

    Args:
        in_channels: Channels of the pillar map.
        num_halvings: How often the stem halves rows and columns.
        stage_channels: Channels of each stage; the first keeps the resolution, every other halves it.
        stage_layers: Convolutions of a stage.
    """

    def __init__(
        self, *, in_channels: int, num_halvings: int, stage_channels: Sequence[int], stage_layers: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(conv_norm_relu(in_channels, in_channels, stride=2) for _ in range(num_halvings)))
        widths = [in_channels, *stage_channels]
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_norm_relu(before, after, stride=1 if index == 0 else 2),
                *(conv_norm_relu(after, after) for _ in range(stage_layers - 1)),
            )
            for index, (before, after) in enumerate(zip(widths, stage_channels, strict=False))
        )

    def forward(self, pillars: Tensor) -> list[Tensor]:
        """Map pillars (B, C, rows, cols) to the maps of all stages, finest first."""
        current = self.stem(pillars)
        maps = []
        for stage in self.stages:
            current = stage(current)
            maps.append(current)
        return maps

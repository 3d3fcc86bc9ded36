"""ResNet (arXiv 1512.03385) with torchvision's parameter names, so that its ImageNet weights load.

The stride of a bottleneck sits in its 3x3 convolution (ResNet "v1.5"), as in torchvision.
"""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone

_BLOCKS_PER_STAGE: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _convolution(channels_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(channels_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; four times as many channels leave as the 3x3 one has."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = _convolution(channels_in, width, 1, 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _convolution(width, width, 3, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _convolution(width, channels_out, 1, 1)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class ResNet(Backbone):
    """The trunk of a ResNet, without its classifier and without stages that nobody asks for.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        width: Channels of the stem; 64 is the standard.
        stages: Stages whose output is returned, from 1 (stride 4) to 4 (stride 32), rising.
        frozen_stages: The stem and this many stages are not trained; 0 trains all.
        frozen_norm: Whether batch norms keep the statistics and scales they were loaded with.
    """

    def __init__(self, *, name: str, width: int, stages: Sequence[int], frozen_stages: int, frozen_norm: bool) -> None:
        block = BasicBlock if name in ("resnet18", "resnet34") else Bottleneck
        super().__init__(stages=stages, channels=[width * 2 ** (stage - 1) * block.expansion for stage in stages])
        self.conv1 = _convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        for stage in range(1, self.stages[-1] + 1):
            stage_width, stride = width * 2 ** (stage - 1), 1 if stage == 1 else 2
            blocks = [block(channels, stage_width, stride)]
            channels = stage_width * block.expansion
            blocks += [block(channels, stage_width, 1) for _ in range(_BLOCKS_PER_STAGE[name][stage - 1] - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self._freeze(frozen_stages, norms=frozen_norm)

    def stem(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    def stem_layers(self) -> Iterable[nn.Module]:
        return self.conv1, self.bn1

    def stage_blocks(self, stage: int) -> Iterable[nn.Module]:
        return self.get_submodule(f"layer{stage}").children()


def _convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(_convolution(channels_in, channels_out, 1, stride), nn.BatchNorm2d(channels_out))

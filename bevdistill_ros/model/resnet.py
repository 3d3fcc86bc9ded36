"""ResNet (arXiv 1512.03385) with torchvision's parameter names, so that its ImageNet weights load.

The stride of a bottleneck is in its 3x3 convolution (ResNet "v1.5"), as in torchvision, or in its first 1x1
convolution, as in Caffe's and the paper's; weights of one are wrong in the other. Stages may have deformable
convolutions.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone
from bevdistill_ros.model.dcn import DeformableConv2d

BottleneckStyle = Literal["pytorch", "caffe"]

_BLOCKS_PER_STAGE: dict[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
BASIC_RESNETS = ("resnet18", "resnet34")


def check_bottleneck_options(name: str, style: str, deformable_stages: Sequence[int], prefix: str = "") -> None:
    """Raise ValueError where a backbone has no bottlenecks for these options, or an option is out of range.

    Args:
        name: Of the backbone.
        style: Where bottlenecks have their stride.
        deformable_stages: Stages with deformable convolutions.
        prefix: What the settings' names begin with in messages.
    """
    if style not in get_args(BottleneckStyle):
        raise ValueError(f"{prefix}style must be one of {', '.join(get_args(BottleneckStyle))}, but is {style!r}")
    if not set(deformable_stages) <= {1, 2, 3, 4}:
        raise ValueError(f"{prefix}deformable_stages must be among 1, 2, 3, 4, but are {list(deformable_stages)}")
    has_bottlenecks = name in _BLOCKS_PER_STAGE and name not in BASIC_RESNETS
    if not has_bottlenecks and (style != "pytorch" or deformable_stages):
        raise ValueError(
            f"{prefix}style and {prefix}deformable_stages concern the bottlenecks of resnet50 and resnet101; "
            f"leave them unset for {name}"
        )


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
    """1x1, 3x3 and 1x1 convolutions with a shortcut; four times as many channels leave as the 3x3 one has.

    Args:
        channels_in: Channels of the input.
        width: Channels of the 3x3 convolution.
        stride: Step of the output's places on the input.
        style: Which convolution has the stride: the 3x3 one (pytorch) or the first (caffe).
        deformable: Whether the 3x3 convolution is deformable.
    """

    expansion = 4

    def __init__(
        self,
        channels_in: int,
        width: int,
        stride: int,
        *,
        style: BottleneckStyle = "pytorch",
        deformable: bool = False,
    ) -> None:
        super().__init__()
        channels_out = width * self.expansion
        first, second = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = _convolution(channels_in, width, 1, first)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2: nn.Module
        self.conv2 = DeformableConv2d(width, width, second) if deformable else _convolution(width, width, 3, second)
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
    """The trunk of a ResNet, without its classifier and without the stages after the last one asked for.

    Args:
        name: resnet18, resnet34, resnet50 or resnet101.
        width: Channels of the stem; 64 is the standard.
        stages: Stages whose output is returned, from 1 (stride 4) to 4 (stride 32), rising.
        frozen_stages: The stem and this many stages are not trained; 0 trains all.
        frozen_norm: Whether batch norms keep the statistics and scales they were loaded with.
        style: Where bottlenecks have their stride, see `Bottleneck`.
        deformable_stages: Stages whose 3x3 convolutions are deformable (DCNv2).

    Raises:
        ValueError: A ResNet of basic blocks is asked for what only bottlenecks have.
    """

    def __init__(
        self,
        *,
        name: str,
        width: int,
        stages: Sequence[int],
        frozen_stages: int,
        frozen_norm: bool,
        style: BottleneckStyle = "pytorch",
        deformable_stages: Sequence[int] = (),
    ) -> None:
        check_bottleneck_options(name, style, deformable_stages)
        is_basic = name in BASIC_RESNETS
        expansion = (BasicBlock if is_basic else Bottleneck).expansion
        super().__init__(stages=stages, channels=[width * 2 ** (stage - 1) * expansion for stage in stages])
        self.style, self.deformable_stages, self.has_bottlenecks = style, tuple(deformable_stages), not is_basic
        self.conv1 = _convolution(3, width, 7, 2)
        self.bn1 = nn.BatchNorm2d(width)

        def block(channels_in: int, stage: int, stride: int) -> nn.Module:
            stage_width = width * 2 ** (stage - 1)
            if is_basic:
                return BasicBlock(channels_in, stage_width, stride)
            return Bottleneck(channels_in, stage_width, stride, style=style, deformable=stage in deformable_stages)

        channels = width
        for stage in range(1, self.stages[-1] + 1):
            blocks = [block(channels, stage, 1 if stage == 1 else 2)]
            channels = width * 2 ** (stage - 1) * expansion
            blocks += [block(channels, stage, 1) for _ in range(_BLOCKS_PER_STAGE[name][stage - 1] - 1)]
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

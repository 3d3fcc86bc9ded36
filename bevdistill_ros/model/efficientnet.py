"""EfficientNet-Lite0, EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6, for small devices.

Parameters have the names of its PyTorch port by the package `efficientnet-lite-pytorch`, without the leading
underscores, and strided convolutions are padded as TensorFlow pads them, so that its ImageNet weights fit exactly.

Deviation: no stochastic depth, which that training had.
"""

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bevdistill_ros.model.backbone import Backbone

STEM_CHANNELS = 32
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01  # of the training whose weights are loaded

# Repeats, kernel, stride, expansion, channels; as in table 1 of the paper, the first and the last row not scaled.
_ROWS: tuple[tuple[int, int, int, int, int], ...] = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_BLOCKS_UP_TO_STAGE = (0, 3, 5, 11, 16)  # strides 4, 8, 16 and 32 are reached after this many blocks
_STAGE_CHANNELS = (24, 40, 112, 320)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, depthwise convolution, 1x1 convolution to few; a shortcut where shapes agree.

    Args:
        channels_in: Channels that enter.
        channels_out: Channels that leave.
        kernel: Rows and columns of the depthwise convolution.
        stride: Of the depthwise convolution.
        expansion: How many times as many channels lie between; 1 has no first convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and channels_in == channels_out
        if self.expands:
            self.expand_conv = SameConv2d(channels_in, width, 1)
            self.bn0 = _norm(width)
        self.depthwise_conv = SameConv2d(width, width, kernel, stride=stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = SameConv2d(width, channels_out, 1)
        self.bn2 = _norm(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride), rounded up."""
        inner = F.relu6(self.bn0(self.expand_conv(x)), inplace=True) if self.expands else x
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)), inplace=True)
        output: Tensor = self.bn2(self.project_conv(inner))
        return output + x if self.adds else output


class EfficientNetLite0(Backbone):
    """The trunk of EfficientNet-Lite0; a stage of ours ends where the stride is about to grow.

    Args:
        stages: Stages whose output is returned, from 1 (stride 4) to 4 (stride 32), rising.
        frozen_stages: The stem and this many stages are not trained; 0 trains all.
        frozen_norm: Whether batch norms keep the statistics and scales they were loaded with.
    """

    def __init__(self, *, stages: Sequence[int], frozen_stages: int, frozen_norm: bool) -> None:
        super().__init__(stages=stages, channels=[_STAGE_CHANNELS[stage - 1] for stage in stages])
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.bn0 = _norm(STEM_CHANNELS)
        blocks: list[InvertedResidual] = []
        before = STEM_CHANNELS
        for repeats, kernel, stride, expansion, after in _ROWS:
            for repeat in range(repeats):
                own_stride = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(before, after, kernel=kernel, stride=own_stride, expansion=expansion))
                before = after
        self.blocks = nn.ModuleList(blocks[: _BLOCKS_UP_TO_STAGE[self.stages[-1]]])
        self._freeze(frozen_stages, norms=frozen_norm)

    def stem(self, images: Tensor) -> Tensor:
        return F.relu6(self.bn0(self.conv_stem(images)), inplace=True)

    def stem_layers(self) -> Iterable[nn.Module]:
        return self.conv_stem, self.bn0

    def stage_blocks(self, stage: int) -> Iterable[nn.Module]:
        return self.blocks[_BLOCKS_UP_TO_STAGE[stage - 1] : _BLOCKS_UP_TO_STAGE[stage]]


class SameConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow's `SAME`: of an odd number of zeros, one more at the right and at the bottom.

    Args:
        channels_in: Channels that enter.
        channels_out: Channels that leave.
        kernel: Rows and columns.
        stride: Of rows and columns.
        groups: As in `nn.Conv2d`.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, groups=groups, bias=False)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride), rounded up."""
        rows, cols = (_missing(size, self.kernel_size[0], self.stride[0]) for size in x.shape[-2:])
        if rows % 2 == 0 and cols % 2 == 0:
            padding = (rows // 2, cols // 2)
            return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)
        padded = F.pad(x, (cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        return F.conv2d(padded, self.weight, None, self.stride, 0, self.dilation, self.groups)


def _missing(size: int, kernel: int, stride: int) -> int:
    """Zeros that a line of `size` places lacks so that a kernel fits at every `stride`-th of them."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)

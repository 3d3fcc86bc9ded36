"""Modulated deformable convolution, DCNv2 (arXiv 1811.11168), in plain torch.

Each of the 3x3 taps samples bilinearly at an offset that a convolution predicts for every place, and is multiplied by
a factor in (0, 1); outside of the map there is zero. Sampling is that of deformable attention, also when exported.
"""

import torch
from torch import Tensor, nn

from bevdistill_ros.model.deformable import sample_map

KERNEL = 3
NUM_TAPS = KERNEL * KERNEL


class DeformableConv2d(nn.Module):
    """A 3x3 convolution without bias whose taps move with the image; names as in mmcv's `ModulatedDeformConv2dPack`.

    Offsets start at zero and factors at one half, as there: so weights of a plain convolution do not fit.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Step of the output's places on the input.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in, KERNEL, KERNEL))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.conv_offset = nn.Conv2d(channels_in, 3 * NUM_TAPS, KERNEL, stride=stride, padding=KERNEL // 2)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to (B, C', h / stride, w / stride), sides rounded up."""
        predicted = self.conv_offset(x).float()  # half precision would move samples by parts of a cell
        offset, factor = predicted[:, : 2 * NUM_TAPS], predicted[:, 2 * NUM_TAPS :].sigmoid()
        height, width = predicted.shape[-2:]
        grid = self._places(offset, x.shape[-2], x.shape[-1]).flatten(1, 2)
        sampled = sample_map(x.float(), grid)
        taps = sampled.unflatten(2, (NUM_TAPS, height)) * factor.unsqueeze(1)
        columns = taps.flatten(1, 2).flatten(2).to(x.dtype)  # (B, C * taps, h * w)
        return (self.weight.flatten(1) @ columns).unflatten(-1, (height, width))

    def _places(self, offset: Tensor, height: int, width: int) -> Tensor:
        """Where the taps sample a map of height x width cells, of offsets (B, 2 * taps, h, w) [cells]: y before x.

        Returns:
            (B, taps, h, w, 2), x before y, in [-1, 1] over the map.
        """
        rows, cols = offset.shape[-2:]
        shift = offset.unflatten(1, (NUM_TAPS, 2))
        tap = torch.arange(NUM_TAPS, device=offset.device)
        row = torch.arange(rows, device=offset.device) * self.stride
        col = torch.arange(cols, device=offset.device) * self.stride
        y = shift[:, :, 0] + (row[None, :, None] + (tap // KERNEL - KERNEL // 2)[:, None, None])
        x = shift[:, :, 1] + (col[None, None, :] + (tap % KERNEL - KERNEL // 2)[:, None, None])
        return torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)

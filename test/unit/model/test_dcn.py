"""Deformable convolution against a loop over places and taps, and against the plain convolution that it generalises."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bevdistill_ros.model.dcn import DeformableConv2d


def layer_of(stride: int) -> DeformableConv2d:
    torch.manual_seed(3)
    layer = DeformableConv2d(4, 3, stride)
    with torch.no_grad():
        layer.conv_offset.weight.normal_(std=0.3)
        layer.conv_offset.bias.normal_()  # type: ignore[union-attr]
    return layer


def bilinear(map_hw: Tensor, y: float, x: float) -> float:
    """A bilinear sample, zero outside of the map."""
    height, width = map_hw.shape
    low_y, low_x = int(torch.tensor(y).floor()), int(torch.tensor(x).floor())
    total = 0.0
    for row in (low_y, low_y + 1):
        for col in (low_x, low_x + 1):
            if 0 <= row < height and 0 <= col < width:
                total += (1 - abs(y - row)) * (1 - abs(x - col)) * float(map_hw[row, col])
    return total


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 2])
def test_equals_a_loop_over_taps(stride: int) -> None:
    layer, x = layer_of(stride), torch.randn(1, 4, 5, 6)
    predicted = layer.conv_offset(x)[0]
    found = layer(x)[0]
    for row in range(found.shape[1]):
        for col in range(found.shape[2]):
            expected = torch.zeros(3)
            for tap in range(9):
                y = row * stride + tap // 3 - 1 + float(predicted[2 * tap, row, col])
                u = col * stride + tap % 3 - 1 + float(predicted[2 * tap + 1, row, col])
                factor = float(predicted[18 + tap, row, col].sigmoid())
                for channel in range(4):
                    sample = factor * bilinear(x[0, channel], y, u)
                    expected += layer.weight[:, channel, tap // 3, tap % 3] * sample
            torch.testing.assert_close(found[:, row, col], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_offsets_it_is_half_the_plain_convolution() -> None:
    layer, x = DeformableConv2d(4, 3, 2), torch.randn(2, 4, 7, 9)
    plain = F.conv2d(x, layer.weight, stride=2, padding=1)
    torch.testing.assert_close(layer(x), 0.5 * plain, atol=1e-5, rtol=1e-5)


def test_a_batch_is_its_items() -> None:
    layer, x = layer_of(1), torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(layer(x), torch.cat([layer(x[:1]), layer(x[1:])]), atol=1e-6, rtol=1e-5)


def test_gradients_reach_offsets_and_weights() -> None:
    layer = layer_of(1)
    layer(torch.randn(1, 4, 5, 6)).square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0

import math

import pytest
import torch
import torch.nn.functional as F

from bevdistill_ros.model.efficientnet import EfficientNetLite0, SameConv2d


def trunk(stages: tuple[int, ...] = (1, 2, 3, 4), frozen_stages: int = 0, norm: bool = False) -> EfficientNetLite0:
    return EfficientNetLite0(stages=stages, frozen_stages=frozen_stages, frozen_norm=norm)


def test_the_network_has_its_published_size() -> None:
    # 4.652 M in the release, less the head: 320 -> 1280 channels with batch norm, and the classifier of 1000 classes.
    expected = 4_652_008 - (320 * 1280 + 2 * 1280) - (1280 * 1000 + 1000)
    assert sum(parameter.numel() for parameter in trunk().parameters()) == expected


def test_maps_have_the_strides_and_channels_of_their_stages() -> None:
    maps = trunk((1, 2, 3, 4)).eval()(torch.randn(2, 3, 64, 96))
    assert [tuple(entry.shape[1:]) for entry in maps] == [(24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert trunk((2, 4)).channels == (40, 320)


def test_stages_that_nobody_needs_are_not_built() -> None:
    assert len(trunk((1, 2)).blocks) == 5


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (8, 9)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (1, 1)])
def test_padding_is_that_of_tensorflow(size: tuple[int, int], kernel: int, stride: int) -> None:
    """Outputs are as many as strides begin in the input; an odd zero goes to the right and to the bottom."""
    torch.manual_seed(0)
    layer = SameConv2d(2, 3, kernel, stride=stride)
    x = torch.randn(1, 2, *size)
    wide = F.pad(x, (10, 10, 10, 10))
    rows, cols = (math.ceil(length / stride) for length in size)
    expected = torch.zeros(1, 3, rows, cols)
    starts = [10 - max((count - 1) * stride + kernel - n, 0) // 2 for count, n in zip((rows, cols), size, strict=True)]
    for row in range(rows):
        for col in range(cols):
            top, left = starts[0] + row * stride, starts[1] + col * stride
            window = wide[0, :, top : top + kernel, left : left + kernel]
            expected[0, :, row, col] = (layer.weight * window).sum((1, 2, 3))
    torch.testing.assert_close(layer(x), expected)


def test_frozen_parts_do_not_move() -> None:
    network = trunk(frozen_stages=1, norm=True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.SGD([entry for entry in network.parameters() if entry.requires_grad], lr=0.1)
    torch.stack([entry.mean() for entry in network(torch.randn(2, 3, 32, 32))]).sum().backward()
    optimizer.step()
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    still = ("conv_stem", "bn0", "blocks.0.", "blocks.1.", "blocks.2.")
    assert not any("bn" in name or name.startswith(still) for name in moved)
    assert "blocks.3.depthwise_conv.weight" in moved


def test_batch_norm_trains_unless_frozen() -> None:
    network = trunk((1,)).train()
    network(torch.randn(2, 3, 32, 32))
    assert int(network.bn0.num_batches_tracked) == 1

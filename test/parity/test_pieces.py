"""Single parts of the public network against ours: where a layout differs, these say which part it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bevdistill_ros.model.dcn import DeformableConv2d
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.resnet import Bottleneck

pytestmark = pytest.mark.real
UNIT = {"atol": 1e-5, "rtol": 0.0}

ReadPiece = Callable[[str], Any]


@pytest.mark.parametrize("style", ["caffe", "pytorch"])
def test_bottleneck(style: str, piece: ReadPiece) -> None:
    part = piece("bottleneck")
    block = Bottleneck(8, part.settings["planes"], part.settings["stride"], style=style).eval()  # type: ignore[arg-type]
    block.load_state_dict(part.weights)
    torch.testing.assert_close(block(part.inputs["x"]), part.outputs[style], **UNIT)
    other = part.outputs["pytorch" if style == "caffe" else "caffe"]
    assert (block(part.inputs["x"]) - other).abs().max() > 0.02


def test_bottleneck_with_deformable_convolution(piece: ReadPiece) -> None:
    part = piece("bottleneck-dcn")
    block = Bottleneck(8, part.settings["planes"], part.settings["stride"], style="caffe", deformable=True).eval()
    block.load_state_dict(part.weights)
    torch.testing.assert_close(block(part.inputs["x"]), part.outputs["caffe"], **UNIT)


@pytest.mark.parametrize("stride", [1, 2])
def test_deformable_convolution(stride: int, piece: ReadPiece) -> None:
    part = piece("dcn-v2")
    layer = DeformableConv2d(6, 5, stride)
    layer.load_state_dict(part.weights)
    torch.testing.assert_close(layer(part.inputs["x"]), part.outputs[f"stride{stride}"], **UNIT)


def test_pyramid(piece: ReadPiece) -> None:
    part = piece("fpn")
    pyramid = FeaturePyramid(channels_in=(5, 7, 9), channels=part.settings["channels"], num_levels=4, norm=False)
    names = {f"lateral_convs.{level}.conv": f"laterals.{level}" for level in range(3)}
    names |= {f"fpn_convs.{level}.conv": f"outputs.{level}" for level in range(3)} | {"fpn_convs.3.conv": "extras.0"}
    pyramid.load_state_dict({f"{names[k.rsplit('.', 1)[0]]}.{k.rsplit('.', 1)[1]}": v for k, v in part.weights.items()})
    levels = pyramid([part.inputs[f"maps.{level}"] for level in range(3)])
    for level, found in enumerate(levels):
        torch.testing.assert_close(found, part.outputs[f"levels.{level}"], **UNIT)

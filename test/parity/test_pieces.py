"""Single parts of the public network against ours: where a layout differs, these say which part it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.model.dcn import DeformableConv2d
from bevdistill_ros.model.decoder import DecoderLayer, QueryAttention
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.layers import FeedForward, maps_of
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PublicStudentConfig
from bevdistill_ros.model.records import SetPrediction
from bevdistill_ros.model.resnet import Bottleneck
from bevdistill_ros.model.temporal_attention import TemporalSelfAttention

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


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Weights by our names, of layers by their public names."""
    return {
        f"{ours}.{part}": weights[f"{public}.{part}"] for ours, public in names.items() for part in ("weight", "bias")
    }


ATTENTION = {
    "sampling_offsets": "sampling_offsets",
    "attention_weights": "attention_weights",
    "value_projection": "value_proj",
    "output_projection": "output_proj",
}


def test_temporal_self_attention(piece: ReadPiece) -> None:
    part = piece("temporal-self-attention")
    own = part.settings
    layer = TemporalSelfAttention(embed_dim=own["channels"], num_heads=own["heads"], num_points=own["points"])
    layer.load_state_dict(renamed(part.weights, {**ATTENTION, "past_projection": "value_proj"}))
    query, position = part.inputs["query"], part.inputs["query_pos"]
    both = part.inputs["reference_points"][:, :, 0]
    previous, current, alone = (
        maps_of(part.inputs[name], own["rows"], own["cols"]) for name in ("previous", "current", "query")
    )
    found = layer(query + position, both.transpose(0, 1)[None], [previous, current])
    torch.testing.assert_close(found, part.outputs["with_previous_attended"], **UNIT)
    found = layer(query + position, both[1:2], [alone, alone])
    torch.testing.assert_close(found, part.outputs["alone_attended"], **UNIT)


def test_decoder_layer(piece: ReadPiece) -> None:
    part = piece("decoder-layer")
    own, width = part.settings, part.settings["channels"]
    layer = DecoderLayer(
        QueryAttention(width, own["heads"], 0.0),
        MultiScaleDeformableAttention(embed_dim=width, num_heads=own["heads"], num_levels=1, num_points=own["points"]),
        FeedForward(width, own["feedforward_channels"], 0.0),
        0.0,
    ).eval()
    names = {f"cross_attention.{ours}": f"attentions.1.{public}" for ours, public in ATTENTION.items()}
    names |= {f"norms.{index}": f"norms.{index}" for index in range(3)}
    names |= {"feed_forward.0": "ffns.0.layers.0.0", "feed_forward.3": "ffns.0.layers.1"}
    inner = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    state = {f"interaction.attention.{name}": part.weights[f"attentions.0.attn.{name}"] for name in inner}
    layer.load_state_dict(renamed(part.weights, names) | state)
    query, position, bev = (part.inputs[name].transpose(0, 1) for name in ("query", "query_pos", "bev"))
    found = layer(query, position, part.inputs["reference_points"][:, :, 0], [maps_of(bev, own["rows"], own["cols"])])
    torch.testing.assert_close(found.transpose(0, 1), part.outputs["result"], **UNIT)


@pytest.mark.parametrize("limit", ["published", "tight"])
def test_box_decode(limit: str, piece: ReadPiece) -> None:
    part = piece("box-decode")
    own = part.settings
    pose = transform_from(np.array(own["lidar2ego_rotation"]), np.array(own["lidar2ego_translation"]))
    settings = tuple(pose.flatten().tolist()), tuple(own["post_center_range"][limit])
    config = PublicStudentConfig(ego_from_model=settings[0], detection_range=settings[1])
    with torch.device("meta"):
        student = PublicBevFormer(config)
    student.ego_from_model = torch.from_numpy(pose).float()
    codes = part.inputs["all_bbox_preds"].clone()
    codes[..., 6], codes[..., 7] = -codes[..., 7], -codes[..., 6].clone()
    logits = part.inputs["all_cls_scores"]
    own_frame = SetPrediction(logits=logits, codes=codes, features=codes)
    found = detections_from(student.in_ego(own_frame), [0], max_detections=own["max_num"], grid=config.region)[0]
    expected = part.outputs[f"{limit}.boxes_ego"].float()
    assert torch.equal(found.labels, part.outputs[f"{limit}.labels"])
    torch.testing.assert_close(found.scores, part.outputs[f"{limit}.scores"], **UNIT)
    torch.testing.assert_close(found.boxes[:, :6], expected[:, :6], atol=1e-4, rtol=0.0)
    torch.testing.assert_close(found.boxes[:, 7:], expected[:, 7:], atol=1e-4, rtol=0.0)
    assert float((found.boxes[:, 6] - expected[:, 6]).sin().abs().max()) < 1e-5
    assert float((found.boxes[:, 6] - expected[:, 6]).cos().min()) > 0.99

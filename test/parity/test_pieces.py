"""Single parts of the public network against ours: where a layout differs, these say which part it is."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.grid import BevGrid
from bevdistill_ros.core.records import Detections
from bevdistill_ros.model.dcn import DeformableConv2d
from bevdistill_ros.model.decoder import DecoderLayer, QueryAttention
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention
from bevdistill_ros.model.fpn import FeaturePyramid
from bevdistill_ros.model.geometry import VisiblePillars
from bevdistill_ros.model.layers import FeedForward, maps_of, tokens_of
from bevdistill_ros.model.postprocess import detections_from
from bevdistill_ros.model.public_bevformer import PublicBevFormer
from bevdistill_ros.model.public_config import PUBLIC_CAMERAS, PublicStudentConfig
from bevdistill_ros.model.public_geometry import PublicGeometryFinder
from bevdistill_ros.model.records import CameraInput, SetPrediction
from bevdistill_ros.model.resnet import Bottleneck
from bevdistill_ros.model.spatial_attention import SpatialCrossAttention
from bevdistill_ros.model.temporal_attention import TemporalSelfAttention
from training.weights import public_map

pytestmark = pytest.mark.real
UNIT = {"atol": 1e-5, "rtol": 0.0}
METRES = {"atol": 1e-4, "rtol": 0.0}
SEEN = 0.02  # a mistake changes a result by at least this much

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


def weights_of(
    part: Any, sources: Iterable[tuple[str, public_map.Source]], ours: str, public: str
) -> dict[str, Tensor]:
    """The weights of a piece under our names, of which `ours` and `public` are the prefixes; all of them are used."""
    mine = [(name.removeprefix(ours), *source) for name, source in sources if name.startswith(ours)]
    used = {theirs.removeprefix(public) for _, theirs, _ in mine}
    assert used == set(part.weights)
    return {name: change(part.weights[theirs.removeprefix(public)]) for name, theirs, change in mine}


def farthest(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max())


class CrossAttentionPiece:
    """The spatial cross-attention with its weights, and what its cameras see."""

    def __init__(self, part: Any) -> None:
        own = part.settings
        x_min, y_min, z_min, x_max, y_max, z_max = own["point_cloud_range"]
        grid = {"x_min": x_min, "x_max": x_max, "y_min": y_min, "y_max": y_max, "z_min": z_min, "z_max": z_max}
        self.part, self.matrices = part, part.inputs["lidar2img"]
        self.config = PublicStudentConfig(
            model_grid=BevGrid(rows=own["rows"], cols=own["cols"], **grid),
            ego_from_model=tuple(torch.eye(4).flatten().tolist()),
            cameras=PUBLIC_CAMERAS[: len(self.matrices)],
            image_height=own["img_shape"][0],
            image_width=own["img_shape"][1],
            pixel_offset=0.0,
            embed_dim=own["channels"],
            num_heads=own["heads"],
            num_levels=own["levels"],
            num_heights=own["pillar_points"],
            points_per_height=own["points"] // own["pillar_points"],
        )

    def visible(self, image_from_ego: Tensor) -> VisiblePillars:
        cameras = CameraInput(
            images=torch.zeros(1, len(image_from_ego), 3, 1, 1, dtype=torch.uint8),
            image_from_ego=image_from_ego[None],
            valid=torch.ones(1, len(image_from_ego), dtype=torch.bool),
            global_from_ego=torch.eye(4, dtype=torch.float64)[None],
        )
        return PublicGeometryFinder(self.config).of(cameras).visible

    def attended(self, visible: VisiblePillars) -> Tensor:
        config = self.config
        attention = SpatialCrossAttention(
            embed_dim=config.embed_dim,
            num_heads=config.num_heads,
            num_levels=config.num_levels,
            num_heights=config.num_heights,
            points_per_height=config.points_per_height,
        )
        sources = public_map._encoder_sources("", "", config)
        attention.load_state_dict(weights_of(self.part, sources, "cross_attention.", "attentions.1."))
        levels = [self.part.inputs[f"maps.{level}"] for level in range(config.num_levels)]
        found: Tensor = attention(self.part.inputs["query"], visible, levels)
        return found


def test_spatial_cross_attention(piece: ReadPiece) -> None:
    part = piece("spatial-cross-attention")
    cross = CrossAttentionPiece(part)
    found = cross.attended(cross.visible(cross.matrices))
    torch.testing.assert_close(found, part.outputs["attended"], **UNIT)
    torch.testing.assert_close(part.inputs["query"] + found, part.outputs["result"], **UNIT)


def test_what_the_cameras_see(piece: ReadPiece) -> None:
    """Which pillars each camera sees, and the places of all their heights in its image."""
    part = piece("spatial-cross-attention")
    cross = CrossAttentionPiece(part)
    visible = cross.visible(cross.matrices)
    for camera, mask in enumerate(part.inputs["bev_mask"][:, 0].bool().any(dim=-1)):
        present = visible.present[0, camera]
        assert torch.equal(visible.index[0, camera, present], mask.nonzero()[:, 0])
        expected = part.inputs["reference_points_cam"][camera, 0, mask]
        torch.testing.assert_close(visible.places[0, camera, present], expected, **UNIT)


@pytest.mark.parametrize("mistake", ["cameras", "axes", "points before heights", "seen heights only"])
def test_mistakes_of_spatial_cross_attention_are_seen(
    mistake: str, piece: ReadPiece, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = piece("spatial-cross-attention")
    cross = CrossAttentionPiece(part)
    matrices = cross.matrices[[1, 0, 2]] if mistake == "cameras" else cross.matrices
    visible = cross.visible(matrices)
    if mistake == "axes":
        visible.places.copy_(visible.places.flip(-1))
    elif mistake == "points before heights":
        monkeypatch.setattr(public_map, "heights_first", lambda *shape: lambda value: value)
    elif mistake == "seen heights only":
        x, y = visible.places.unbind(dim=-1)
        visible = replace(visible, seen=visible.seen & (x >= 0) & (x < 1) & (y >= 0) & (y < 1))
    assert farthest(cross.attended(visible), part.outputs["attended"]) > SEEN


def self_attended(part: Any, reference: Tensor, maps: list[Tensor]) -> Tensor:
    """Temporal self-attention at reference (maps, Q, 1, 2) on previous and current map, given as tokens (1, Q, C)."""
    own = part.settings
    config = PublicStudentConfig(embed_dim=own["channels"], num_heads=own["heads"], bev_points=own["points"])
    attention = TemporalSelfAttention(
        embed_dim=config.embed_dim, num_heads=config.num_heads, num_points=config.bev_points
    )
    sources = public_map._encoder_sources("", "", config)
    attention.load_state_dict(weights_of(part, sources, "self_attention.", "attentions.0."))
    placed = part.inputs["query"] + part.inputs["query_pos"]
    by_map = reference[:, :, 0].transpose(0, 1)[None]
    found: Tensor = attention(placed, by_map, [maps_of(entry, own["rows"], own["cols"]) for entry in maps])
    return found


def test_temporal_self_attention_with_a_past(piece: ReadPiece) -> None:
    part = piece("temporal-self-attention")
    reference, maps = part.inputs["reference_points"], [part.inputs["previous"], part.inputs["current"]]
    found = self_attended(part, reference, maps)
    expected = part.outputs["with_previous_attended"]
    torch.testing.assert_close(found, expected, **UNIT)
    torch.testing.assert_close(part.inputs["query"] + found, part.outputs["with_previous"], **UNIT)
    assert farthest(self_attended(part, reference, maps[::-1]), expected) > SEEN
    assert farthest(self_attended(part, reference.flip(0), maps), expected) > SEEN
    assert farthest(self_attended(part, reference.flip(-1), maps), expected) > SEEN


def test_temporal_self_attention_without_a_past(piece: ReadPiece) -> None:
    part = piece("temporal-self-attention")
    reference, query = part.inputs["reference_points"][[1, 1]], part.inputs["query"]
    found = self_attended(part, reference, [query, query])
    expected = part.outputs["alone_attended"]
    torch.testing.assert_close(found, expected, **UNIT)
    torch.testing.assert_close(query + found, part.outputs["alone"], **UNIT)
    placed = query + part.inputs["query_pos"]
    assert farthest(self_attended(part, reference, [placed, placed]), expected) > SEEN
    assert farthest(self_attended(part, reference.flip(-1), [query, query]), expected) > SEEN


def test_decoder_layer(piece: ReadPiece) -> None:
    part = piece("decoder-layer")
    own, inputs = part.settings, part.inputs
    width, heads = own["channels"], own["heads"]
    layer = DecoderLayer(
        QueryAttention(width, heads, dropout=0.0),
        MultiScaleDeformableAttention(embed_dim=width, num_heads=heads, num_levels=1, num_points=own["points"]),
        FeedForward(width, own["feedforward_channels"], dropout=0.0),
        dropout=0.0,
    )
    layer.load_state_dict(weights_of(part, public_map._decoder_sources("", ""), "", ""))
    steps: list[Tensor] = []
    for norm in layer.norms:
        norm.register_forward_hook(lambda module, entering, output: steps.append(output.transpose(0, 1)))
    query, position, bev = (inputs[name].transpose(0, 1) for name in ("query", "query_pos", "bev"))
    levels, reference = [maps_of(bev, own["rows"], own["cols"])], inputs["reference_points"][:, :, 0]
    layer(query, position, reference, levels)
    names = "after_self_attention_and_norm", "after_cross_attention_and_norm", "result"
    for name, found in zip(names, steps, strict=True):
        torch.testing.assert_close(found, part.outputs[name], **UNIT)
    expected = part.outputs["result"].transpose(0, 1)
    assert farthest(layer(query, position, reference.flip(-1), levels), expected) > SEEN
    assert farthest(layer(query, 0 * position, reference, levels), expected) > SEEN
    swapped = [maps_of(tokens_of(levels[0].transpose(2, 3)), own["rows"], own["cols"])]
    assert farthest(layer(query, position, reference, swapped), expected) > SEEN


SMALL_NETWORK: dict[str, int] = {"backbone_width": 2, "embed_dim": 16, "num_heads": 2, "num_queries": 12}


class BoxPiece:
    """Decoded boxes in the ego frame, of the piece's predictions."""

    def __init__(self, part: Any) -> None:
        self.part = part
        own = part.settings
        rotation, translation = (np.array(own[f"lidar2ego_{name}"]) for name in ("rotation", "translation"))
        self.ego_from_lidar = transform_from(rotation, translation)

    def boxes(self, limits: str, *, yaw_is_ours: bool = False, tilted: bool = True) -> Detections:
        own, inputs = self.part.settings, self.part.inputs
        pose = self.ego_from_lidar.copy()
        if not tilted:
            pose[:3, :3] = [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
        detection_range = tuple(own["post_center_range"][limits])
        config = PublicStudentConfig(
            ego_from_model=tuple(pose.flatten().tolist()), detection_range=detection_range, **SMALL_NETWORK
        )
        student = PublicBevFormer(config)
        codes = inputs["all_bbox_preds"].clone()
        if not yaw_is_ours:  # in a student this is folded into the weights of the box heads
            codes = public_map.yaw_turned(codes.movedim(-1, 0)).movedim(0, -1)
        logits = inputs["all_cls_scores"]
        own_frame = SetPrediction(logits=logits, codes=codes, features=torch.zeros(*logits.shape[:3], 1))
        return detections_from(student.in_ego(own_frame), [0], max_detections=own["max_num"], grid=config.region)[0]


@pytest.mark.parametrize("limits", ["published", "tight"])
def test_box_decoding(limits: str, piece: ReadPiece) -> None:
    part = piece("box-decode")
    boxes = BoxPiece(part)
    found = boxes.boxes(limits)
    assert torch.equal(found.labels, part.outputs[f"{limits}.labels"])
    torch.testing.assert_close(found.scores, part.outputs[f"{limits}.scores"], **UNIT)
    expected = part.outputs[f"{limits}.boxes_ego"]
    metres = [0, 1, 2, 3, 4, 5, 7, 8]
    torch.testing.assert_close(found.boxes[:, metres], expected[:, metres], **METRES)
    for function in (torch.sin, torch.cos):
        torch.testing.assert_close(function(found.boxes[:, 6]), function(expected[:, 6]), **UNIT)


def test_mistakes_of_box_decoding_are_seen(piece: ReadPiece) -> None:
    part = piece("box-decode")
    boxes, expected = BoxPiece(part), part.outputs["published.boxes_ego"]
    turned = boxes.boxes("published", yaw_is_ours=True).boxes
    assert farthest(turned[:, 6].cos(), expected[:, 6].cos()) > SEEN
    assert farthest(boxes.boxes("published", tilted=False).boxes[:, :3], expected[:, :3]) > SEEN
    assert len(boxes.boxes("published").labels) != len(part.outputs["tight.labels"])

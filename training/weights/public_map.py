"""Names and layouts of the public BEVFormer's weights, and ours.

Every tensor of a checkpoint is used, or is on a short list of what inference does not need; every tensor of our student
is filled. So a checkpoint of another network can't pass for the one that was named.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from bevdistill_ros.core.nuscenes import CLASS_NAMES
from bevdistill_ros.model.public_config import PublicStudentConfig
from training.weights.backbone import STEM, stem_for_our_input

HEAD = "pts_bbox_head."
TRANSFORMER = f"{HEAD}transformer."
# Of training alone: loss weights, and the heatmap branch that BEVDistill's student has beside its head.
LEFT_OVER = (f"{HEAD}code_weights", f"{HEAD}shared_conv.", f"{HEAD}task_heads.")
COUNTER = "num_batches_tracked"  # of batch norms; inference does not read it, and old files lack it
SINE, COSINE = 6, 7  # rows of a box head's last layer

Source = tuple[str, Callable[[Tensor], Tensor]]  # the public name, and how its tensor becomes ours

_ATTENTION = {
    "sampling_offsets": "sampling_offsets",
    "attention_weights": "attention_weights",
    "value_projection": "value_proj",
    "output_projection": "output_proj",
}
_LAYER = {
    "feed_forward.0": "ffns.0.layers.0.0",
    "feed_forward.3": "ffns.0.layers.1",
    **{f"norms.{index}": f"norms.{index}" for index in range(3)},
}


class MapError(ValueError):
    """A checkpoint does not fit the network that it was named after."""


def our_weights(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    config: PublicStudentConfig,
    *,
    cameras: Sequence[str],
    classes: Sequence[str],
    is_caffe: bool,
) -> dict[str, Tensor]:
    """The public weights as those of our student.

    Args:
        state: Tensors by public name, without the prefixes of trainers.
        expected: The state of our student, of which shapes count.
        config: Of that student.
        cameras: In the order of the public embeddings.
        classes: In the order of the public class logits.
        is_caffe: Whether the network took BGR minus its mean.

    Raises:
        MapError: Tensors are missing, left over, or of another shape; the line names the first ones.
    """
    sources = dict(_sources(config, cameras, classes, is_caffe))
    found: dict[str, Tensor] = {}
    missing = []
    for name in expected:
        public, change = sources.get(name, _renamed_backbone(name, is_caffe))
        if name.endswith(COUNTER) and public not in state:
            found[name] = torch.zeros((), dtype=torch.int64)  # what is expected has shapes alone
        elif public in state:
            found[name] = _changed(state[public], change, public)
        else:
            missing.append(public)
    used = {(sources.get(name) or _renamed_backbone(name, is_caffe))[0] for name in expected}
    used.add(f"{TRANSFORMER}reference_points.weight")
    if f"{TRANSFORMER}reference_points.weight" in state and not missing:
        found["decoder.selection.reference"] = _references(state, config.embed_dim)
    extra = [name for name in state if name not in used and not name.startswith(LEFT_OVER)]
    misshapen = [
        f"{sources.get(name, _renamed_backbone(name, is_caffe))[0]} makes {tuple(found[name].shape)} instead of "
        f"{tuple(value.shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    _raise_for(missing, extra, misshapen)
    return found


def _raise_for(missing: Sequence[str], extra: Sequence[str], misshapen: Sequence[str]) -> None:
    kinds = ((missing, "missing"), (extra, "not known"), (misshapen, "of another shape"))
    faults = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for names, what in kinds
        if names
    ]
    if faults:
        raise MapError(f"tensors {'; '.join(faults)}")


def _sources(
    config: PublicStudentConfig, cameras: Sequence[str], classes: Sequence[str], is_caffe: bool
) -> Iterator[tuple[str, Source]]:
    """Our names outside the backbone, each with its source."""
    yield from _pyramid_sources(len(config.stage_strides), config.num_levels)
    width = config.embed_dim
    rows = [list(cameras).index(name) for name in config.cameras]
    yield "encoder.queries", (f"{HEAD}bev_embedding.weight", _same)
    for axis in ("row", "col"):
        yield f"encoder.{axis}_position", (f"{HEAD}positional_encoding.{axis}_embed.weight", _same)
    yield "encoder.level_embedding", (f"{TRANSFORMER}level_embeds", lambda value: value[: config.num_levels])
    yield "encoder.camera_embedding", (f"{TRANSFORMER}cams_embeds", _rows(rows, len(cameras)))
    for ours, public in (("0", "0"), ("2", "2"), ("4", "norm")):
        yield from _both(f"encoder.ego_state.{ours}", f"{TRANSFORMER}can_bus_mlp.{public}")
    for index in range(config.encoder_layers):
        yield from _encoder_sources(f"encoder.layers.{index}.", f"{TRANSFORMER}encoder.layers.{index}.", config)
    for index in range(config.decoder_layers):
        yield from _decoder_sources(f"decoder.layers.{index}.", f"{TRANSFORMER}decoder.layers.{index}.")
    yield "decoder.selection.content", (f"{HEAD}query_embedding.weight", lambda value: value[:, width:])
    yield "decoder.position.queries", (f"{HEAD}query_embedding.weight", lambda value: value[:, :width])
    # The references need the query positions too, so they are computed at last.
    yield "decoder.selection.reference", (f"{TRANSFORMER}reference_points.bias", _same)
    order = [list(classes).index(name) for name in CLASS_NAMES]
    for index in range(config.decoder_layers):
        for part in (0, 1, 3, 4):
            yield from _both(f"decoder.class_heads.{index}.{part}", f"{HEAD}cls_branches.{index}.{part}")
        last = f"{HEAD}cls_branches.{index}.6"
        yield from _both(f"decoder.class_heads.{index}.6", last, _rows(order, len(classes)))
        for part in (0, 2):
            yield from _both(f"decoder.box_heads.{index}.{part}", f"{HEAD}reg_branches.{index}.{part}")
        yield from _both(f"decoder.box_heads.{index}.4", f"{HEAD}reg_branches.{index}.4", yaw_turned)


def _pyramid_sources(num_maps: int, num_levels: int) -> Iterator[tuple[str, Source]]:
    for index in range(num_maps):
        yield from _both(f"pyramid.laterals.{index}", f"img_neck.lateral_convs.{index}.conv")
    for index in range(num_levels):
        ours = f"outputs.{index}" if index < num_maps else f"extras.{index - num_maps}"
        yield from _both(f"pyramid.{ours}", f"img_neck.fpn_convs.{index}.conv")


def _encoder_sources(ours: str, public: str, config: PublicStudentConfig) -> Iterator[tuple[str, Source]]:
    for name, theirs in _ATTENTION.items():
        yield from _both(f"{ours}self_attention.{name}", f"{public}attentions.0.{theirs}")
    yield from _both(f"{ours}self_attention.past_projection", f"{public}attentions.0.value_proj")
    cross, inner = f"{ours}cross_attention.", f"{public}attentions.1.deformable_attention."
    shape = (config.num_heads, config.num_levels, config.points_per_height, config.num_heights)
    yield from _both(f"{cross}sampling_offsets", f"{inner}sampling_offsets", heights_first(*shape, 2))
    yield from _both(f"{cross}attention_weights", f"{inner}attention_weights", heights_first(*shape, 1))
    yield from _both(f"{cross}value_projection", f"{inner}value_proj")
    yield from _both(f"{cross}output_projection", f"{public}attentions.1.output_proj")
    for name, theirs in _LAYER.items():
        yield from _both(f"{ours}{name}", f"{public}{theirs}")


def _decoder_sources(ours: str, public: str) -> Iterator[tuple[str, Source]]:
    for name in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"):
        yield f"{ours}interaction.attention.{name}", (f"{public}attentions.0.attn.{name}", _same)
    for name, theirs in _ATTENTION.items():
        yield from _both(f"{ours}cross_attention.{name}", f"{public}attentions.1.{theirs}")
    for name, theirs in _LAYER.items():
        yield from _both(f"{ours}{name}", f"{public}{theirs}")


def _renamed_backbone(name: str, is_caffe: bool) -> Source:
    """Where a tensor of the backbone comes from."""
    inner = name.removeprefix("backbone.")
    return f"img_backbone.{inner}", stem_for_our_input if is_caffe and inner == STEM else _same


def _both(
    ours: str, public: str, change: Callable[[Tensor], Tensor] = lambda value: value
) -> Iterator[tuple[str, Source]]:
    """Weight and bias of a layer."""
    for part in ("weight", "bias"):
        yield f"{ours}.{part}", (f"{public}.{part}", change)


def _same(value: Tensor) -> Tensor:
    return value


def _rows(order: Sequence[int], count: int) -> Callable[[Tensor], Tensor]:
    """Takes rows by number, of a tensor that must have `count` of them."""

    def change(value: Tensor) -> Tensor:
        if len(value) != count:
            raise ValueError(f"has {len(value)} rows, but {count} names go with them")
        return value[list(order)]

    return change


def heights_first(heads: int, levels: int, points: int, heights: int, size: int) -> Callable[[Tensor], Tensor]:
    """Rows of (heads, levels, points, heights, size), as published, in our order: heights before points."""

    def change(value: Tensor) -> Tensor:
        by_point = value.reshape(heads, levels, points, heights, size, *value.shape[1:])
        return by_point.transpose(2, 3).reshape(value.shape)

    return change


def yaw_turned(value: Tensor) -> Tensor:
    """Rows of a box head's last layer for our yaw: the public code's is -yaw - 90 degrees."""
    turned = value.clone()
    turned[SINE], turned[COSINE] = -value[COSINE], -value[SINE]
    return turned


def _references(state: Mapping[str, Tensor], width: int) -> Tensor:
    """Reference points (Q, 3) as logits: the public code computes them of the queries' positions."""
    position = state[f"{HEAD}query_embedding.weight"][:, :width]
    layer = f"{TRANSFORMER}reference_points"
    return linear(position, state[f"{layer}.weight"], state[f"{layer}.bias"])


def _changed(value: Tensor, change: Callable[[Tensor], Tensor], name: str) -> Tensor:
    try:
        return change(value.float() if value.is_floating_point() else value).contiguous()
    except (RuntimeError, IndexError, ValueError) as error:
        raise MapError(f"tensor {name} of shape {tuple(value.shape)} does not fit: {error}") from error

"""The teacher's decoder as the start of the student's: both are a `SetDecoder` on BEV maps.

What the teacher's decoder has learned of boxes and queries holds for the student's map too, once that map resembles
the teacher's; as in DistillBEV (arXiv 2309.15109) and DualDistill, which start the student's head from the teacher's.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor

from bevdistill_ros.model.decoder import DecoderLayer, SetDecoder
from bevdistill_ros.model.deformable import MultiScaleDeformableAttention

_SAMPLING = ("sampling_offsets", "attention_weights")


def inherit_decoder(student: SetDecoder, teacher: SetDecoder) -> None:
    """Fill a student's decoder and heads with the teacher's.

    The student takes the teacher's first layers. In cross-attention its points on its one map take over the teacher's
    on all maps, at the same places, where it has as many or a multiple; otherwise those on the finest. Learned queries
    are inherited where their number is the same; otherwise, and where the two select queries in different ways, the
    student keeps its own.

    Args:
        student: Filled in place.
        teacher: Stays as it is.

    Raises:
        ValueError: The decoders do not fit; the line names the first difference.
    """
    found = teacher.state_dict()
    wanted = student.state_dict()
    if len(student.layers) > len(teacher.layers):
        raise ValueError(
            f"the teacher's decoder has {len(teacher.layers)} layers, which can't start the student's "
            f"{len(student.layers)}; lower student.decoder_layers, or set distill.inherit to none"
        )
    own = _own_selection(found, wanted)
    weights = {name: wanted[name] if name in own else _inherited(name, found, student, teacher) for name in wanted}
    for name, value in weights.items():
        if value is None or value.shape != wanted[name].shape:
            theirs = "nothing" if value is None else f"{tuple(value.shape)}"
            raise ValueError(
                f"the teacher's decoder does not fit the student's: of {name} it has {theirs} instead of "
                f"{tuple(wanted[name].shape)}; give both the same embed_dim, num_heads, feedforward_dim and "
                "attention among queries, and the student a multiple of the teacher's points, or set distill.inherit "
                "to none"
            )
    student.load_state_dict(weights)


def on_finest_map(decoder: SetDecoder) -> SetDecoder:
    """A copy of a decoder that reads the finest of its maps alone, frozen and in eval mode.

    Its cross-attention samples that map at the places where it sampled the others.
    """
    single = copy.deepcopy(decoder)
    for layer in single.layers:
        assert isinstance(layer, DecoderLayer)
        heads, levels, points = layer.cross_attention.shape
        layer.cross_attention = MultiScaleDeformableAttention(
            embed_dim=layer.cross_attention.output_projection.out_features,
            num_heads=heads,
            num_levels=1,
            num_points=levels * points,
        )
    inherit_decoder(single, decoder)
    return single.requires_grad_(False).eval()


def _own_selection(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> set[str]:
    """Names of the student's selection of queries, where the teacher's is another."""
    names = {name for name in wanted if name.startswith("selection.")}
    theirs = {name for name in found if name.startswith("selection.")}
    same = names == theirs and all(found[name].shape == wanted[name].shape for name in names)
    return set() if same else names


def _inherited(name: str, found: Mapping[str, Tensor], student: SetDecoder, teacher: SetDecoder) -> Tensor | None:
    value = found.get(name)
    if value is None or not any(f".cross_attention.{part}." in name for part in _SAMPLING):
        return value
    attention = name.removesuffix(".weight").removesuffix(".bias").rpartition(".")[0]
    heads, levels, points = _shape(teacher, attention)
    wanted = _shape(student, attention)[2]
    if wanted % points:
        return value
    by_level = value.reshape(heads, levels, points, -1, *value.shape[1:])
    if name.rpartition(".")[0].endswith("sampling_offsets"):  # in cells, which each level has twice as large
        scale = 2.0 ** torch.arange(levels).to(value)
        by_level = by_level * scale.view(-1, *(1 for _ in by_level.shape[2:]))
    if wanted % (levels * points):
        by_level = by_level[:, :1]
    # Points of the same place and weight share what one of them had.
    kept = by_level.flatten(1, 2)
    return kept.repeat_interleave(wanted // kept.shape[1], dim=1).reshape(-1, *value.shape[1:])


def _shape(decoder: SetDecoder, name: str) -> tuple[int, int, int]:
    """Heads, maps and points of an attention of a decoder."""
    attention = decoder.get_submodule(name)
    assert isinstance(attention, MultiScaleDeformableAttention)
    return attention.shape

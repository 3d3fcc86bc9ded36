"""Weights of a single-frame student as the start of a temporal one."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bevdistill_ros.model.temporal_attention import NUM_MAPS, TemporalSelfAttention


def remembering_weights(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of a model without memory as a start for the same model with one, which then answers alike.

    The past counts nothing at first, and the current map twice, as the mean of both is taken.

    Args:
        weights: By name; those of a model with memory come back as they are.
        model: The model with memory.
    """
    widened = dict(weights)
    for prefix, module in model.named_modules():
        if not isinstance(module, TemporalSelfAttention):
            continue
        found = {name: weights.get(f"{prefix}.{name}") for name in module.state_dict()}
        if not _is_single(found, module):
            continue
        for name, value in found.items():
            layer, part = name.split(".")
            if value is None:  # of the past's own projection
                value = torch.zeros_like(module.get_parameter(name))
            elif layer == "value_projection":
                value = NUM_MAPS * value
            elif layer != "output_projection":
                if part == "weight":  # the first half of the input is the past
                    value = torch.cat([torch.zeros_like(value), value], dim=1)
                by_head = value.reshape(module.shape[0], 1, -1, *value.shape[1:])
                value = by_head.expand(-1, NUM_MAPS, *by_head.shape[2:]).reshape(-1, *value.shape[1:])
            widened[f"{prefix}.{name}"] = value
    return widened


def _is_single(found: Mapping[str, Tensor | None], module: TemporalSelfAttention) -> bool:
    """Whether these are weights of the same attention to the current map alone."""
    sizes = {name: None if value is None else tuple(value.shape) for name, value in found.items()}
    halves = {
        f"{name}.weight": (layer.out_features // NUM_MAPS, layer.in_features // 2)
        for name, layer in module.named_children()
        if name in ("sampling_offsets", "attention_weights") and isinstance(layer, nn.Linear)
    }
    own = {name for name in found if name.startswith("past_projection.")}
    missing = {name for name, value in found.items() if value is None}
    return missing == own and all(sizes[name] == half for name, half in halves.items())

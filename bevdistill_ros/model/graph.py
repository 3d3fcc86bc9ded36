"""The network as a graph of named tensors, which exported engines share.

Inputs are the images, the tensors of the geometry record, and for a temporal student the previous BEV; outputs are the
last decoder layer and the BEV. Batch size is 1.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bevdistill_ros.model.geometry import BevWarp, Geometry
from bevdistill_ros.model.student import CameraStudent, StudentSettings

IMAGES, PREVIOUS_BEV = "images", "previous_bev"
OUTPUTS = ("logits", "codes", "bev")
NUM_NEIGHBOURS = 4  # of a place of the warp
PADDED_AXES: dict[str, dict[int, str]] = {  # sizes that follow the rig
    "visible_index": {2: "pillars"},
    "visible_places": {2: "pillars"},
    "visible_seen": {2: "pillars"},
    "visible_slots": {2: "cameras"},
    "visible_shares": {2: "cameras"},
}


def graph_inputs(
    images: Tensor, geometry: Geometry, previous_bev: Tensor | None, config: StudentSettings
) -> dict[str, Tensor]:
    """The inputs of the graph by name, in its order.

    Args:
        images: (1, N, 3, H, W) uint8.
        geometry: Of the frame.
        previous_bev: (1, C, rows, cols); None where there is none, which a temporal graph is given as not present.
        config: Settings of the student.
    """
    if config.temporal and (previous_bev is None or geometry.warp is None):
        previous_bev, geometry = _no_past(config), with_past(replace(geometry, warp=None), config)
    inputs = {IMAGES: images, **dict(_tensors_of(geometry))}
    return inputs if previous_bev is None else {**inputs, PREVIOUS_BEV: previous_bev}


class NetworkGraph(nn.Module):
    """A student whose inputs and outputs are plain tensors, see `graph_inputs`.

    Args:
        student: The student.
        geometry: A geometry that shows which tensors there are; for a temporal student with a warp.
    """

    def __init__(self, student: CameraStudent, geometry: Geometry) -> None:
        super().__init__()
        self.student, self._example = student, geometry

    def forward(self, images: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (1, Q, K) and codes (1, Q, 10) of the last layer, and the BEV (1, C, rows, cols)."""
        remaining = iter(inputs)
        geometry = _rebuilt(self._example, remaining)
        output = self.student.network(images, geometry, next(remaining, None))
        return output.predictions.logits[-1], output.predictions.codes[-1], output.bev


def with_past(geometry: Geometry, config: StudentSettings) -> Geometry:
    """The geometry with a warp where the student is temporal: one of nothing where there is none."""
    return replace(geometry, warp=_no_warp(config)) if config.temporal and geometry.warp is None else geometry


def _tensors_of(record: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested records by name, in the order of the fields."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            yield prefix + field.name, value
        elif is_dataclass(value):
            yield from _tensors_of(value, f"{prefix}{field.name}_")


def _rebuilt(example: Any, tensors: Iterator[Tensor]) -> Any:
    """A record like the example with the next tensors in its fields."""
    found: dict[str, Any] = {}
    for field in fields(example):
        value = getattr(example, field.name)
        if isinstance(value, Tensor):
            found[field.name] = next(tensors)
        elif is_dataclass(value):
            found[field.name] = _rebuilt(value, tensors)
    return replace(example, **found)


def _no_past(config: StudentSettings) -> Tensor:
    return torch.zeros(1, config.embed_dim, config.bev_grid.rows, config.bev_grid.cols)


def _no_warp(config: StudentSettings) -> BevWarp:
    shape = (1, NUM_NEIGHBOURS, config.bev_grid.rows * config.bev_grid.cols)
    return BevWarp(
        index=torch.zeros(shape, dtype=torch.int64),
        weight=torch.zeros(shape),
        present=torch.zeros(1, dtype=torch.bool),
    )

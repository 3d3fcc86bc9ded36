"""What goes into a BEV detector and what comes out; the teacher and the student speak the same records.

Shape legend: B batch, N cameras, H W image [px], L decoder layers, Q queries, K classes, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CameraInput:
    """A batch of camera frames, ready for the network."""

    images: Tensor  # (B, N, 3, H, W) uint8 RGB
    image_from_ego: Tensor  # (B, N, 4, 4) float32, see CameraRig.image_from_ego
    valid: Tensor  # (B, N) bool, False for a missing camera
    global_from_ego: Tensor  # (B, 4, 4) float64 [m]
    # (B, 9) float32, each x y z in the ego frame: acceleration [m/s2], turn rates [rad/s], velocity [m/s]; zeros where
    # they are unknown, None where they are for all. Read by the public student alone.
    motion: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on another device."""
        return self.mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with each tensor changed."""
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in known.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class SetPrediction:
    """What a DETR-like decoder predicts, layer by layer; the last layer is the answer."""

    logits: Tensor  # (L, B, Q, K), sigmoid gives the class scores
    codes: Tensor  # (L, B, Q, 10), core.boxes regression code, in metres in the ego frame
    features: Tensor  # (L, B, Q, C), the layer before the prediction heads
    heatmap: Tensor | None = None  # (B, K, rows, cols) logits that chose the queries; None where these are learned

    def layer(self, index: int) -> "SetPrediction":
        """One layer, with L = 1."""
        chosen = slice(index, index + 1) if index >= 0 else slice(index, index + 1 or None)
        return SetPrediction(logits=self.logits[chosen], codes=self.codes[chosen], features=self.features[chosen])


@dataclass(frozen=True, kw_only=True)
class StudentOutput:
    """What the camera student returns."""

    bev: Tensor  # (B, C, rows, cols) after the encoder, on the student's grid
    predictions: SetPrediction


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an engine returns: the last decoder layer and the BEV, in float32."""

    logits: Tensor  # (1, B, Q, K), as in SetPrediction with one layer
    codes: Tensor  # (1, B, Q, 10)
    bev: Tensor  # (B, C, rows, cols)


@dataclass(frozen=True, kw_only=True)
class BevMemory:
    """The previous BEV of the temporal model."""

    bev: Tensor  # (B, C, rows, cols) after the encoder
    global_from_ego: Tensor  # (B, 4, 4) float64, ego pose of that BEV
    present: Tensor  # (B,) bool, False where there is no history (scene start, reset)

"""The protocol of an engine's network: static inputs to the last layer's answer."""

from typing import Protocol

from torch import Tensor

from bevdistill_ros.inference.engine_choice import Precision
from bevdistill_ros.model.geometry import Geometry
from bevdistill_ros.model.records import Answer


class Network(Protocol):
    """Runs the network of one bundle on one device."""

    name: str  # torch, onnx or openvino
    precision: Precision
    place: str  # device or provider, for logs
    is_static: bool  # whether it is fastest with the same shapes in each frame

    def __call__(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """Run on one frame.

        Args:
            images: (1, N, 3, H, W) uint8 RGB on the CPU.
            geometry: Of the frame, on the CPU.
            previous_bev: A BEV that this network returned, (1, C, rows, cols); None where there is none.
        """

    def synchronise(self) -> None:
        """Wait until what was started is done."""


class EngineError(ValueError):
    """An engine is not installed, does not fit the bundle, or failed its proof."""

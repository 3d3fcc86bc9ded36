"""What a manifest says about the exported networks of a bundle and the reference that they must reproduce."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bevdistill_ros.core.plain import dataclass_from, plain_from
from bevdistill_ros.inference.engine_choice import Precision


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an engine's answers may lie from those of torch, on the reference.

    Raises:
        ValueError: A value is not above zero.
    """

    bev_max: float  # largest difference of a BEV value, in units of the BEV's root mean square
    bev_rms: float  # root mean square of the differences, in the same units
    # Of a prediction, in logits and metres. One query in fifty may differ more; in half precision, one in two.
    queries: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= MAX_TOLERANCE:
                raise ValueError(f"tolerance {name} must be above 0 and at most {MAX_TOLERANCE:g}, but is {value}")


MAX_TOLERANCE = 100.0
FP32_TOLERANCE = Tolerance(bev_max=0.01, bev_rms=5e-4, queries=0.01)  # TF32 on a GPU takes about a tenth of it
MOST_FP32_TOLERANCE = Tolerance(bev_max=0.1, bev_rms=5e-3, queries=0.1)  # of a network that amplifies rounding
MOST_HALF_TOLERANCE = Tolerance(bev_max=1.0, bev_rms=0.05, queries=1.0)


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """A file in the bundle's folder."""

    file: str  # its name
    sha256: str


@dataclass(frozen=True, kw_only=True)
class NetworkFile:
    """An exported network, which the engines onnx and openvino read.

    One of float32 is listed once for each precision in which an engine may compute it, with another tolerance.
    """

    precision: Precision
    file: str  # its name in the bundle's folder
    sha256: str
    opset: int  # of ONNX
    sampling: Literal["grid_sample", "gather"]  # how the graph samples maps
    tolerance: Tolerance


@dataclass(frozen=True, kw_only=True)
class EngineFiles:
    """Exported networks of the same weights, and their reference."""

    weights_sha256: str  # of the weights that the networks were exported from
    reference: StoredFile  # safetensors: two frames and torch's answers
    networks: tuple[NetworkFile, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        plain: dict[str, Any] = plain_from(self)
        return plain

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "EngineFiles":
        """Inverse of `to_dict`; a ValueError names what is wrong."""
        return dataclass_from(cls, content, "manifest.engines")

"""Which engine runs a bundle, and how."""

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["auto", "torch", "onnx", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
HALF_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """Which engine runs a bundle, and how."""

    engine: EngineName = "torch"  # auto: the fastest that is installed and proves itself
    precision: Precision = "fp32"  # see docs/engines.md for what each engine offers
    device: str = "auto"  # of torch
    compiled: bool = False  # compile the network of torch, which takes a minute or more at the first frame
    onnx_providers: tuple[str, ...] = ("cpu",)  # of ONNX Runtime, by preference: tensorrt, cuda, cpu
    openvino_device: str = "CPU"  # CPU, GPU or NPU
    num_threads: int = 0  # of onnx and openvino on a CPU; 0: as many as torch takes

"""Engine `openvino`: the exported network in OpenVINO, on Intel and Arm CPUs, Intel GPUs and NPUs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bevdistill_ros.inference.engine_choice import Precision
from bevdistill_ros.inference.engines.network import EngineError
from bevdistill_ros.model.geometry import Geometry
from bevdistill_ros.model.graph import OUTPUTS, graph_inputs
from bevdistill_ros.model.records import Answer
from bevdistill_ros.model.student import StudentSettings

_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}  # what OpenVINO calls what it is to compute in


class OpenVinoNetwork:
    """Runs an exported network in OpenVINO.

    The network is compiled for the shapes of its inputs, which is faster than a compilation for any shape; a rig that
    sees more than the capacity costs one more compilation.

    Args:
        file: The ONNX file.
        config: Settings of the student that was exported.
        precision: What to compute in; `int8` where that is the file's, else any that the device offers.
        device: `CPU`, `GPU`, `GPU.<index>` or `NPU`.
        num_threads: Threads on a CPU; 0 for as many as torch takes.

    Raises:
        EngineError: OpenVINO or the device is not there, or it refuses the file or the precision.
    """

    name = "openvino"
    is_static = True

    def __init__(
        self, file: Path, config: StudentSettings, precision: Precision, device: str, num_threads: int
    ) -> None:
        self.precision, self.place, self._config = precision, device, config
        self._core = _core()
        _check_device(self._core, device)
        _check_precision(self._core, device, precision)
        self._settings = _settings(device, precision, num_threads or torch.get_num_threads())
        try:
            self._model = self._core.read_model(file.read_bytes())
        except RuntimeError as error:
            raise EngineError(f"OpenVINO refuses '{file.name}': {_last_line(error)}") from error
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """See `Network`."""
        inputs = graph_inputs(images, geometry, previous_bev, self._config)
        shapes = tuple(tuple(value.shape) for value in inputs.values())
        request = self._requests.get(shapes) or self._compiled(inputs, shapes)
        request.infer({name: value.numpy() for name, value in inputs.items()}, share_inputs=True)
        # Copies: the request writes its next answer into the same memory.
        logits, codes, bev = (torch.from_numpy(request.get_tensor(name).data.copy()) for name in OUTPUTS)
        return Answer(logits=logits[None], codes=codes[None], bev=bev)

    def synchronise(self) -> None:
        """OpenVINO returns when it is done."""

    def _compiled(self, inputs: dict[str, Tensor], shapes: tuple[tuple[int, ...], ...]) -> Any:
        try:
            self._model.reshape({name: list(value.shape) for name, value in inputs.items()})
            request = self._core.compile_model(self._model, self.place, self._settings).create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile the network for {self.place}: {_last_line(error)}") from error
        self._requests = {shapes: request}  # the older ones would only hold memory
        return request


def _core() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise EngineError("engine openvino needs OpenVINO: pip install openvino") from error
    return openvino.Core()


def _check_device(core: Any, device: str) -> None:
    available = core.available_devices
    if not any(name == device or name.split(".")[0] == device for name in available):
        raise EngineError(f"OpenVINO has no device '{device}' here; it has {', '.join(available)}")


def _check_precision(core: Any, device: str, precision: Precision) -> None:
    """Raise EngineError where the device would compute in another precision, or pretend to."""
    offered = [str(name).lower() for name in core.get_property(device, "OPTIMIZATION_CAPABILITIES")]
    if precision in _HINTS and precision not in offered:
        known = ", ".join(name for name in (*_HINTS, "int8") if name in offered)
        raise EngineError(
            f"OpenVINO's device '{device}' does not compute in {precision} here, only in {known}; set precision to one "
            "of these"
        )


def _settings(device: str, precision: Precision, num_threads: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        settings["INFERENCE_NUM_THREADS"] = num_threads
    # By default it computes in half precision where the device can, which is not what was asked for. What an int8
    # network leaves in floats is float32 on a CPU, and elsewhere what the device prefers.
    if precision in _HINTS or device == "CPU":
        settings["INFERENCE_PRECISION_HINT"] = _HINTS.get(precision, "f32")
    return settings


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)

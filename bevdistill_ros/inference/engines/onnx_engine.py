"""Engine `onnx`: the exported network in ONNX Runtime."""

from collections.abc import Sequence
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

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxNetwork:
    """Runs an exported network in ONNX Runtime.

    Args:
        file: The ONNX file.
        config: Settings of the student that was exported.
        precision: Of the file; what ONNX Runtime computes in is fixed in it.
        providers: Execution providers by preference, see `PROVIDERS`; what a provider lacks, the next one computes.
        num_threads: Threads on a CPU; 0 for as many as torch takes.

    Raises:
        EngineError: ONNX Runtime or a provider is not installed, or it refuses the file or the precision.
    """

    name = "onnx"
    precisions = ("fp32", "int8")

    def __init__(
        self, file: Path, config: StudentSettings, precision: Precision, providers: Sequence[str], num_threads: int
    ) -> None:
        if precision not in self.precisions:
            offered = " and ".join(self.precisions)
            raise EngineError(
                f"engine onnx offers precision {offered}, but got '{precision}', which openvino or torch may offer"
            )
        self.precision, self._config = precision, config
        self._session = _session(file, _providers(providers), num_threads or torch.get_num_threads())
        self.place = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        self.is_static = self.place != "CPU"  # there padding costs more than other shapes do

    def __call__(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """See `Network`."""
        inputs = graph_inputs(images, geometry, previous_bev, self._config)
        found = self._session.run(list(OUTPUTS), {name: value.numpy() for name, value in inputs.items()})
        logits, codes, bev = map(torch.from_numpy, found)
        return Answer(logits=logits[None], codes=codes[None], bev=bev)

    def synchronise(self) -> None:
        """ONNX Runtime returns when it is done."""


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError("engine onnx needs ONNX Runtime: pip install onnxruntime") from error
    return onnxruntime


def _providers(names: Sequence[str]) -> list[str]:
    unknown = [name for name in names if name not in PROVIDERS]
    if unknown or not names:
        raise EngineError(
            f"onnx_providers must be some of {', '.join(PROVIDERS)}, but are {', '.join(names) or 'none'}"
        )
    available = _runtime().get_available_providers()
    missing = [name for name in names if PROVIDERS[name] not in available]
    if missing:
        raise EngineError(
            f"this ONNX Runtime has no provider {', '.join(missing)}; it has {', '.join(available)}; install "
            "onnxruntime-gpu, or set onnx_providers to cpu"
        )
    return [PROVIDERS[name] for name in names]


def _session(file: Path, providers: list[str], num_threads: int) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    # Threads that spin while they wait take the cores from decoding and the middleware; those that never do are slow to
    # go on with the next piece. Up to here they gain a fifth on idle cores and lose as little as possible on busy ones.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    try:
        # From memory, so that no path in the file leads ONNX Runtime out of the bundle.
        return runtime.InferenceSession(file.read_bytes(), options, providers=providers)
    except Exception as error:  # its exceptions share no base class
        reason = str(error).strip().splitlines()
        raise EngineError(f"ONNX Runtime refuses '{file.name}': {reason[0] if reason else error!r}") from error

"""Engine `torch`: the student itself, on a CPU or a CUDA device."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bevdistill_ros.inference.engine_choice import Precision
from bevdistill_ros.inference.engines.cuda_graph import Function, Replayed
from bevdistill_ros.inference.engines.network import EngineError
from bevdistill_ros.model.geometry import Geometry
from bevdistill_ros.model.graph import NetworkGraph, graph_inputs, with_past
from bevdistill_ros.model.records import Answer
from bevdistill_ros.model.student import CameraStudent

_AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchNetwork:
    """Runs a student in torch; the student is moved to the device.

    Args:
        student: The student.
        device: Where it runs.
        precision: `fp32`, `bf16`, or on a GPU `fp16`.
        compiled: Compile the network, which takes a minute or more at the first frame.

    Raises:
        EngineError: torch does not offer this precision there.
    """

    name = "torch"

    def __init__(
        self, student: CameraStudent, device: torch.device, precision: Precision, *, compiled: bool = False
    ) -> None:
        if precision not in _AUTOCAST:
            raise EngineError(
                f"engine torch offers precision {', '.join(_AUTOCAST)}, but got '{precision}'; int8 needs engine "
                "onnx or openvino"
            )
        if precision == "fp16" and device.type == "cpu":
            raise EngineError("precision fp16 needs a CUDA device; on a CPU use fp32 or bf16")
        self.precision, self.place, self.device = precision, str(device), device
        self._autocast = _AUTOCAST[precision]
        self._student = student.eval().to(device)
        self._network = torch.compile(self._student.network, dynamic=False) if compiled else self._student.network
        # A compiled network makes its own graphs, and a fake device has none.
        self.is_static = device.type == "cuda" and torch.cuda.is_available() and not compiled
        self._replayed: Replayed | None = None

    @torch.inference_mode()
    def __call__(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """See `Network`."""
        if self.is_static:
            return self._replay(images, geometry, previous_bev)
        if self.device.type != "cpu":  # from pinned memory a copy does not make the CPU wait
            images = images.pin_memory().to(self.device, non_blocking=True)
            geometry = geometry.pin_memory().to(self.device, non_blocking=True)
        with self._cast():
            output = self._network(images, geometry, previous_bev)
        last = output.predictions.layer(-1)
        return Answer(logits=last.logits, codes=last.codes, bev=output.bev)

    def _replay(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """The same by a CUDA graph, which has one set of inputs, with and without a past."""
        inputs = graph_inputs(images, geometry, previous_bev, self._student.config)
        if self._replayed is None:
            graph = NetworkGraph(self._student, with_past(geometry, self._student.config))
            self._replayed = Replayed(self._cast_around(graph), self.device)
        pinned = {name: value.pin_memory() if value.device.type == "cpu" else value for name, value in inputs.items()}
        logits, codes, bev = self._replayed(pinned)
        return Answer(logits=logits[None], codes=codes[None], bev=bev)

    def _cast_around(self, graph: NetworkGraph) -> Function:
        def run(*inputs: Tensor) -> Sequence[Tensor]:
            with self._cast():
                found: Sequence[Tensor] = graph(*inputs)
                return found

        return run

    def _cast(self) -> torch.autocast:
        # Not cached: a graph must not keep weights that were cast for another.
        enabled = self._autocast is not None
        return torch.autocast(self.device.type, dtype=self._autocast, enabled=enabled, cache_enabled=not self.is_static)

    def synchronise(self) -> None:
        """See `Network`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

"""Engine `torch`: the student itself, on a CPU or a CUDA device."""

import torch
from torch import Tensor

from bevdistill_ros.inference.engine_choice import Precision
from bevdistill_ros.inference.engines.network import EngineError
from bevdistill_ros.model.geometry import Geometry
from bevdistill_ros.model.records import Answer
from bevdistill_ros.model.student import CameraStudent

_AUTOCAST = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class TorchNetwork:
    """Runs a student in torch; the student is moved to the device.

    Args:
        student: The student.
        device: Where it runs.
        precision: `fp32`, `bf16`, or on a GPU `fp16`.

    Raises:
        EngineError: torch does not offer this precision there.
    """

    name = "torch"

    def __init__(self, student: CameraStudent, device: torch.device, precision: Precision) -> None:
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

    @torch.inference_mode()
    def __call__(self, images: Tensor, geometry: Geometry, previous_bev: Tensor | None) -> Answer:
        """See `Network`."""
        if self.device.type != "cpu":  # from pinned memory a copy does not make the CPU wait
            images = images.pin_memory().to(self.device, non_blocking=True)
            geometry = geometry.pin_memory().to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None):
            output = self._student.network(images, geometry, previous_bev)
        last = output.predictions.layer(-1)
        return Answer(logits=last.logits, codes=last.codes, bev=output.bev)

    def synchronise(self) -> None:
        """See `Network`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

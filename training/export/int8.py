"""int8 by post-training quantization: the convolutions of an exported network, calibrated on frames of a data set.

ONNX Runtime's QDQ format, which OpenVINO reads too. Attention and heads stay in float32: they take little of the time,
and places and boxes need more than eight bits.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from bevdistill_ros.inference.bundle import sha256_of
from bevdistill_ros.inference.engine_files import EngineFiles, NetworkFile, Tolerance
from bevdistill_ros.inference.engines.onnx_engine import OnnxNetwork
from bevdistill_ros.inference.engines.reference import (
    Deviation,
    capacity_of,
    deviation_of,
    load_reference,
)
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.model.build import finder_of
from bevdistill_ros.model.graph import graph_inputs
from bevdistill_ros.model.records import CameraInput

INT8_FILE = "network_int8.onnx"
_ALLOWANCE = 1.5  # of what int8 deviates here, for engines that round otherwise
_LARGEST_RMS = 0.5  # in units of the BEV's root mean square; beyond it the calibration is useless


def add_int8(folder: Path, manifest: Manifest, files: EngineFiles, frames: Sequence[CameraInput]) -> EngineFiles:
    """Write an int8 network beside the float32 one of a bundle.

    Args:
        folder: The bundle's folder, with the network and the reference.
        manifest: Its manifest so far.
        files: What it holds so far.
        frames: Frames to calibrate on, with batch size 1.

    Raises:
        ValueError: The quantized network has little to do with the float32 one.
    """
    source = next(network for network in files.networks if network.precision == "fp32")
    _quantize(folder / source.file, folder / INT8_FILE, _inputs(manifest, frames))
    student = manifest.student
    network = OnnxNetwork(folder / INT8_FILE, student, "int8", ("cpu",), 0)
    reference = load_reference(folder / files.reference.file, student)
    measured = deviation_of(network, reference, student, manifest.rig)
    if not measured.bev_rms <= _LARGEST_RMS:
        raise ValueError(f"int8 loses too much on the reference ({measured}); calibrate on more or other frames")
    entry = NetworkFile(
        precision="int8",
        file=INT8_FILE,
        sha256=sha256_of(folder / INT8_FILE),
        opset=source.opset,
        sampling=source.sampling,
        tolerance=_tolerance(measured),
    )
    return EngineFiles(
        weights_sha256=files.weights_sha256, reference=files.reference, networks=(*files.networks, entry)
    )


def _tolerance(measured: Deviation) -> Tolerance:
    return Tolerance(**{name: max(value * _ALLOWANCE, 1e-3) for name, value in vars(measured).items()})


def _inputs(manifest: Manifest, frames: Sequence[CameraInput]) -> list[dict[str, np.ndarray]]:
    student = manifest.student
    finder, least = finder_of(student), capacity_of(student, manifest.rig)
    return [
        {
            name: value.numpy()
            for name, value in graph_inputs(frame.images, finder.of(frame, least=least), None, student).items()
        }
        for frame in frames
    ]


def _heads(file: Path) -> list[str]:
    """Names of the convolutions in the decoder, such as those of the heatmap from which queries start."""
    nodes = onnx.load(file).graph.node
    return [node.name for node in nodes if node.op_type == "Conv" and node.name.startswith("/decoder/")]


def _quantize(source: Path, target: Path, inputs: Sequence[dict[str, np.ndarray]]) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._remaining = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._remaining, None)

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a preprocessing that changes nothing here
    try:
        quantize_static(
            source,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_heads(source),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(before)

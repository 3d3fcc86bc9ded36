"""Exported networks of a bundle: one ONNX file, which ONNX Runtime and OpenVINO read.

Known traps, each held by a test: an index_add would become a scatter without addition, so the network has none; in
opset 20 and later TensorRT's parser takes GridSample for nearest, so the opset is 17; and some versions of TensorRT
compute GridSample wrongly at any opset, for which sampling `gather` has no such node.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.inference.bundle import Bundle, load_bundle, sha256_of
from bevdistill_ros.inference.engine_choice import HALF_PRECISIONS, EngineChoice
from bevdistill_ros.inference.engine_files import (
    FP32_TOLERANCE,
    MOST_FP32_TOLERANCE,
    MOST_HALF_TOLERANCE,
    EngineFiles,
    NetworkFile,
    StoredFile,
    Tolerance,
)
from bevdistill_ros.inference.engines.choice import EXPORTED, open_proven
from bevdistill_ros.inference.engines.network import EngineError
from bevdistill_ros.inference.engines.reference import (
    REFERENCE_FILE,
    Deviation,
    Reference,
    deviation,
    deviation_of,
    reference_input,
    save_reference,
    torch_reference,
)
from bevdistill_ros.inference.engines.torch_engine import TorchNetwork
from bevdistill_ros.inference.manifest import Manifest
from bevdistill_ros.model.deformable import Sampling, sampled_by
from bevdistill_ros.model.graph import OUTPUTS, PADDED_AXES, NetworkGraph, graph_inputs
from bevdistill_ros.model.records import CameraInput
from bevdistill_ros.model.student import CameraStudent
from training.export.int8 import add_int8

OPSET = 17
NETWORK_FILE = "network.onnx"
_ROUNDINGS = 4  # times the network's own rounding that an engine may differ by
_HALF_ROUNDINGS = 8  # in half precision, as engines keep other layers in float32 than torch's autocast


def engines_from(names: str) -> tuple[str, ...]:
    """Engines of a comma-separated list; empty for `none`.

    Raises:
        ValueError: One is unknown.
    """
    engines = tuple(name.strip() for name in names.split(",") if name.strip() not in ("", "none"))
    unknown = [name for name in engines if name not in EXPORTED]
    if unknown:
        raise ValueError(f"engines must be some of {', '.join(EXPORTED)}, or none, but got {', '.join(unknown)}")
    return engines


def add_network(
    folder: Path,
    manifest: Manifest,
    student: CameraStudent,
    sampling: Sampling,
    calibration: Sequence[CameraInput] = (),
) -> EngineFiles:
    """Write the exported network and its reference beside the weights of a bundle.

    Args:
        folder: The bundle's folder.
        manifest: Its manifest so far.
        student: The student, on the CPU.
        sampling: How the graph samples maps.
        calibration: Frames to calibrate an int8 network on, with batch size 1; none for no such network.
    """
    write_network(folder / NETWORK_FILE, student, manifest.rig, sampling)
    reference = torch_reference(student, manifest.rig)
    save_reference(folder / REFERENCE_FILE, reference)
    exact = NetworkFile(
        precision="fp32",
        file=NETWORK_FILE,
        sha256=sha256_of(folder / NETWORK_FILE),
        opset=OPSET,
        sampling=sampling,
        tolerance=tolerance_for(rounding_of(student, manifest.rig, reference), MOST_FP32_TOLERANCE),
    )
    rounding = bf16_rounding_of(student, manifest.rig, reference)
    halved = tolerance_for(rounding, MOST_HALF_TOLERANCE, _HALF_ROUNDINGS)
    files = EngineFiles(
        weights_sha256=manifest.weights_sha256,
        reference=StoredFile(file=REFERENCE_FILE, sha256=sha256_of(folder / REFERENCE_FILE)),
        networks=(exact, *(replace(exact, precision=name, tolerance=halved) for name in HALF_PRECISIONS)),
    )
    return add_int8(folder, manifest, files, calibration) if calibration else files


def rounding_of(student: CameraStudent, rig: CameraRig, reference: Reference) -> Deviation:
    """How far torch's own answers lie apart when its convolutions add up in another order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the switch itself, about other vendors' GPUs
        with torch.backends.mkldnn.flags(enabled=False):
            return deviation(torch_reference(student, rig).answers, reference.answers)


def bf16_rounding_of(student: CameraStudent, rig: CameraRig, reference: Reference) -> Deviation:
    """How far torch's own answers in bfloat16 lie from those in float32."""
    network = TorchNetwork(student, torch.device("cpu"), "bf16")
    return deviation_of(network, reference, student.config, rig)


def tolerance_for(rounding: Deviation, most: Tolerance, times: float = _ROUNDINGS) -> Tolerance:
    """The usual tolerance, or so many times the network's own rounding where that is more, up to a limit.

    Deep networks with deformable convolutions can amplify rounding a thousandfold, and no engine rounds as torch does.
    """
    values = {
        name: min(max(getattr(FP32_TOLERANCE, name), times * value), getattr(most, name))
        for name, value in vars(rounding).items()
    }
    return Tolerance(**values)


def write_network(path: Path, student: CameraStudent, rig: CameraRig, sampling: Sampling = "grid_sample") -> None:
    """Write a student's network as ONNX, for frames one by one.

    Args:
        path: The file.
        student: The student, in evaluation mode on the CPU.
        rig: A rig that the example of the tracing has.
        sampling: How the graph samples maps.
    """
    images, geometry, previous_bev = reference_input(student.config, rig)
    inputs = graph_inputs(images, geometry, previous_bev, student.config)
    axes = {name: axis for name, axis in PADDED_AXES.items() if name in inputs}
    with warnings.catch_warnings(), torch.no_grad(), sampled_by(sampling):
        warnings.simplefilter("ignore")  # of the tracer: every size but the padded ones is fixed
        torch.onnx.export(
            NetworkGraph(student, geometry).eval(),
            tuple(inputs.values()),
            str(path),
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs another package and writes a slower graph
            input_names=list(inputs),
            output_names=list(OUTPUTS),
            dynamic_axes=axes,
        )


def prove(path: Path, engines: Sequence[str]) -> list[str]:
    """Let engines run a bundle on this machine; returns a line for each, and one for each in int8 where there is one.

    Raises:
        EngineError: One is not installed or miscomputes; the bundle is there, but that engine will not run it here.
    """
    if not engines:
        return []
    bundle = load_bundle(path)
    lines = [
        f"engine {name}: reproduces torch, {open_proven(bundle, name, EngineChoice()).deviation}" for name in engines
    ]
    files = bundle.manifest.engines.networks if bundle.manifest.engines else ()
    has_int8 = any(file.precision == "int8" for file in files)
    return lines + [_int8_line(bundle, name) for name in engines if has_int8]


def _int8_line(bundle: Bundle, name: str) -> str:
    try:
        found = open_proven(bundle, name, EngineChoice(precision="int8")).deviation
    except EngineError as error:
        return str(error)
    return f"engine {name} in int8: differs from torch by {found}; score it before you drive with it"

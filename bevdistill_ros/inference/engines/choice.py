"""From a bundle and settings to the network that runs it: every engine but torch proves itself first."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.engine_files import NetworkFile
from bevdistill_ros.inference.engines.network import EngineError, Network
from bevdistill_ros.inference.engines.onnx_engine import OnnxNetwork
from bevdistill_ros.inference.engines.openvino_engine import OpenVinoNetwork
from bevdistill_ros.inference.engines.reference import (
    Deviation,
    Reference,
    answers_of,
    deviation,
    load_reference,
    make_blocks,
    thinned,
)
from bevdistill_ros.inference.engines.torch_engine import TorchNetwork

EXPORTED = ("onnx", "openvino")  # engines that run an exported network
_RUNS = 3  # of the reference, to time an engine
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A network that is ready to drive."""

    network: Network
    warnings: tuple[str, ...] = ()  # engines that were tried and refused


def open_network(bundle: Bundle, choice: EngineChoice) -> Chosen:
    """The network of a bundle as it was chosen.

    Raises:
        EngineError: The engine is not installed, the bundle has no network for it, or it failed its proof.
        ValueError: There is no such device, or a file of the bundle is corrupt.
    """
    if choice.engine == "auto":
        return _fastest(bundle, choice)
    if choice.engine == "torch":
        return Chosen(network=TorchNetwork(bundle.student, device_from(choice.device), choice.precision))
    return Chosen(network=open_proven(bundle, choice.engine, choice).network)


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A network that reproduces the reference, and how well."""

    network: Network
    deviation: Deviation


def open_proven(bundle: Bundle, name: str, choice: EngineChoice) -> Proven:
    """An exported network in an engine, which must reproduce the reference of the bundle.

    Raises:
        EngineError: The engine is not installed, the bundle has no network for it, or it failed its proof.
        ValueError: A file of the bundle is corrupt.
    """
    file, reference = _file_of(bundle, choice.precision), _reference_of(bundle)
    network = _built(bundle, file, name, choice)
    manifest = bundle.manifest
    try:
        found = answers_of(network, reference.blocks, manifest.student, manifest.rig)
    except EngineError:
        raise
    except Exception as error:  # the exceptions of engines share no base class
        raise EngineError(f"engine {name} cannot run '{file.file}': {str(error).strip().splitlines()[-1]}") from error
    found_deviation = deviation(tuple(map(thinned, found)), reference.answers)
    faults = found_deviation.exceeds(file.tolerance)
    if faults:
        raise EngineError(
            f"engine {name} ({network.place}, {choice.precision}) is refused: it differs from torch on the bundle's "
            f"reference by {', '.join(faults)}; export the bundle again, or set engine to torch"
        )
    return Proven(network=network, deviation=found_deviation)


def _built(bundle: Bundle, file: NetworkFile, name: str, choice: EngineChoice) -> Network:
    path, student = bundle.stored_file(file.file, file.sha256), bundle.manifest.student
    if name == "onnx":
        return OnnxNetwork(path, student, choice.precision, choice.onnx_providers, choice.num_threads)
    return OpenVinoNetwork(path, student, choice.precision, choice.openvino_device, choice.num_threads)


def _file_of(bundle: Bundle, precision: str) -> NetworkFile:
    engines = bundle.manifest.engines
    if engines is None:
        raise EngineError("the bundle has no exported network; export it with --engines onnx, or set engine to torch")
    if engines.weights_sha256 != bundle.manifest.weights_sha256:
        raise EngineError("the exported networks of the bundle are stale: they are of other weights; export it again")
    for file in engines.networks:
        if file.precision == precision:
            return file
    offered = ", ".join(file.precision for file in engines.networks)
    raise EngineError(f"the bundle has no exported network in {precision}, only in {offered}; export it again")


def _reference_of(bundle: Bundle) -> Reference:
    assert bundle.manifest.engines is not None
    stored = bundle.manifest.engines.reference
    return load_reference(bundle.stored_file(stored.file, stored.sha256), bundle.manifest.student)


def _fastest(bundle: Bundle, choice: EngineChoice) -> Chosen:
    """The fastest engine of those that are installed, exported and prove themselves."""
    found: dict[str, tuple[float, Network]] = {}
    refused: list[str] = []
    for name, outcome in _candidates(bundle, choice):
        if isinstance(outcome, str):
            refused.append(outcome)
        else:
            found[name] = _time_of(outcome, bundle), outcome
    if not found:
        raise EngineError("no engine runs this bundle: " + "; ".join(refused))
    _, network = min(found.values(), key=lambda entry: entry[0])
    times = ", ".join(f"{name} {elapsed:.0f}" for name, (elapsed, _) in found.items())
    _LOG.info("engine auto: %s is the fastest (ms per frame: %s)", network.name, times)
    return Chosen(network=network, warnings=tuple(refused))


def _candidates(bundle: Bundle, choice: EngineChoice) -> Iterator[tuple[str, Network | str]]:
    """Engines by name, or why one that could have run was refused."""
    if choice.precision == "int8":
        _file_of(bundle, choice.precision)  # torch does not offer it, so without a file no engine is left
    else:
        yield "torch", TorchNetwork(bundle.student, device_from(choice.device), choice.precision)
    if bundle.manifest.engines is None or choice.precision not in ("fp32", "int8"):
        return
    for name in EXPORTED:
        if not _is_installed(name):
            continue
        try:
            yield name, open_proven(bundle, name, choice).network
        except ValueError as error:
            yield name, str(error)


def _is_installed(name: str) -> bool:
    try:
        __import__("onnxruntime" if name == "onnx" else "openvino")
    except ImportError:
        return False
    return True


def _time_of(network: Network, bundle: Bundle) -> float:
    """Shortest time of a frame [ms]; the shortest is that least disturbed by other processes."""
    manifest, times = bundle.manifest, []
    blocks = make_blocks(manifest.student)
    for _ in range(_RUNS):
        start = time.perf_counter()
        answers_of(network, blocks, manifest.student, manifest.rig)
        network.synchronise()
        times.append((time.perf_counter() - start) / len(blocks) * 1e3)
    return min(times)

"""From a bundle and settings to the network that runs it: every engine but torch proves itself first."""

import logging
import math
import os
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bevdistill_ros.inference.bundle import Bundle
from bevdistill_ros.inference.device import device_from
from bevdistill_ros.inference.engine_choice import HALF_PRECISIONS, EngineChoice, Precision
from bevdistill_ros.inference.engine_files import NetworkFile
from bevdistill_ros.inference.engines.network import EngineError, Network
from bevdistill_ros.inference.engines.onnx_engine import OnnxNetwork
from bevdistill_ros.inference.engines.openvino_engine import OpenVinoNetwork
from bevdistill_ros.inference.engines.reference import (
    Deviation,
    Reference,
    answers_of,
    deviation_of,
    load_reference,
    make_blocks,
)
from bevdistill_ros.inference.engines.timings import read_timings, timings_path, write_timings
from bevdistill_ros.inference.engines.torch_engine import TorchNetwork

EXPORTED = ("onnx", "openvino")  # engines that run an exported network
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 20  # of the reference, to time engines in turn
_TIMING_S = 2.0  # [s] after which no further round begins
_LEAST_INTERRUPTIONS = 10  # that mean nothing, however short the time
_USUAL_INTERRUPTIONS = 50  # per second and processor, which a process that is alone on a machine does not reach
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
    return Chosen(network=_opened(bundle, choice.engine, choice))


@dataclass(frozen=True, kw_only=True)
class Proven:
    """A network that reproduces the reference, and how well."""

    network: Network
    deviation: Deviation


def open_proven(bundle: Bundle, name: str, choice: EngineChoice) -> Proven:
    """An exported network in an engine, which must reproduce the reference of the bundle.

    Half precision is too coarse to show a small fault of the file, so the file proves itself in float32 first.

    Raises:
        EngineError: The engine is not installed, the bundle has no network for it, or it failed its proof.
        ValueError: A file of the bundle is corrupt.
    """
    file, reference = _file_of(bundle, choice.precision), _reference_of(bundle)
    if choice.precision in HALF_PRECISIONS and may_offer(name, choice.precision):
        open_proven(bundle, name, replace(choice, precision="fp32", openvino_device="CPU"))
    network = _built(bundle, file, name, choice)
    manifest = bundle.manifest
    try:
        found = deviation_of(network, reference, manifest.student, manifest.rig)
    except EngineError:
        raise
    except Exception as error:  # the exceptions of engines share no base class
        raise EngineError(f"engine {name} cannot run '{file.file}': {str(error).strip().splitlines()[-1]}") from error
    faults = found.exceeds(file.tolerance)
    if faults:
        raise EngineError(
            f"engine {name} ({network.place}, {choice.precision}) is refused: it differs from torch on the bundle's "
            f"reference by {', '.join(faults)}; export the bundle again, or set engine to torch"
        )
    return Proven(network=network, deviation=found)


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
    names, path = _candidates(bundle, choice), timings_path(bundle.manifest, choice)
    known = read_timings(path, names) if len(names) > 1 else None
    if known is not None:
        try:
            return Chosen(network=_opened(bundle, min(known, key=known.__getitem__), choice))
        except ValueError as error:
            _LOG.warning("the engine that was the fastest is refused now, so all are measured again: %s", error)
    return _measured(bundle, names, choice, path)


def _measured(bundle: Bundle, names: Sequence[str], choice: EngineChoice, path: Path) -> Chosen:
    """Measure engines.

    Their times are kept unless one was refused, so that a refusal is reported at every start, or the machine was busy.
    """
    found: dict[str, Network] = {}
    refused: list[str] = []
    for name in names:
        try:
            found[name] = _opened(bundle, name, choice)
        except ValueError as error:
            refused.append(str(error))
    if not found:
        raise EngineError("no engine runs this bundle: " + "; ".join(refused))
    if len(found) == 1:
        return Chosen(network=next(iter(found.values())), warnings=tuple(refused))
    started, interrupted = time.perf_counter(), _interruptions()
    times = _times_of(found, bundle)
    fastest = min(times, key=times.__getitem__)
    listed = ", ".join(f"{name} {elapsed:.0f}" for name, elapsed in times.items())
    _LOG.info("engine auto: %s is the fastest (ms per frame: %s)", fastest, listed)
    usual = len(os.sched_getaffinity(0)) * _USUAL_INTERRUPTIONS * (time.perf_counter() - started)
    if _interruptions() - interrupted > _LEAST_INTERRUPTIONS + usual:
        _LOG.info("engine auto: the machine is busy, so these times are not kept; the next start measures again")
    elif not refused:
        write_timings(path, times)
    return Chosen(network=found[fastest], warnings=tuple(refused))


def _interruptions() -> int:
    """How often a thread of this process had to leave a processor to another one."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _candidates(bundle: Bundle, choice: EngineChoice) -> list[str]:
    """Names of the engines that are installed and may run the bundle in this precision."""
    if choice.precision == "int8":
        _file_of(bundle, choice.precision)  # torch does not offer it, so without a file no engine is left
    own = [] if choice.precision == "int8" else ["torch"]
    engines = bundle.manifest.engines
    if engines is None or not any(file.precision == choice.precision for file in engines.networks):
        return own
    return own + [name for name in EXPORTED if may_offer(name, choice.precision) and _is_installed(name)]


def may_offer(name: str, precision: Precision) -> bool:
    """Whether an engine of `EXPORTED` computes in a precision, on some device at least."""
    return name != "onnx" or precision in OnnxNetwork.precisions


def _opened(bundle: Bundle, name: str, choice: EngineChoice) -> Network:
    if name == "torch":
        device = device_from(choice.device)
        return TorchNetwork(bundle.student, device, choice.precision, compiled=choice.compiled)
    return open_proven(bundle, name, choice).network


def _is_installed(name: str) -> bool:
    try:
        __import__("onnxruntime" if name == "onnx" else "openvino")
    except ImportError:
        return False
    return True


def _times_of(networks: Mapping[str, Network], bundle: Bundle) -> dict[str, float]:
    """Shortest time of a frame [ms] by engine; the shortest is that least disturbed by other processes."""
    student, rig = bundle.manifest.student, bundle.manifest.rig
    blocks = make_blocks(student)
    best = dict.fromkeys(networks, math.inf)
    if "torch" in networks:  # the others are warm: they have proven themselves
        answers_of(networks["torch"], blocks, student, rig)
    deadline = time.perf_counter() + _TIMING_S
    for done in range(_MOST_ROUNDS):  # in turn, so that what else the machine does affects all alike
        if done >= _LEAST_ROUNDS and time.perf_counter() > deadline:
            break
        for name, network in networks.items():
            start = time.perf_counter()
            answers_of(network, blocks, student, rig)
            network.synchronise()
            best[name] = min(best[name], (time.perf_counter() - start) / len(blocks) * 1e3)
    return best

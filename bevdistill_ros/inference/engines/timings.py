"""How fast the engines of a bundle were on this machine, kept in the user's cache, so that `auto` measures once."""

import hashlib
import json
import logging
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from bevdistill_ros.core.files import read_text, user_cache, write_whole
from bevdistill_ros.inference.engine_choice import EngineChoice
from bevdistill_ros.inference.manifest import Manifest

_FORMAT = 2  # raise it whenever the measurement changes its meaning
_MAX_BYTES = 10_000
_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino")
_LOG = logging.getLogger(__name__)


def timings_path(manifest: Manifest, choice: EngineChoice) -> Path:
    """Where the times of a bundle's engines are kept: other weights, settings, cores or versions give another name."""
    facts = (_FORMAT, manifest.weights_sha256, manifest.engines, choice, _machine(), tuple(map(_version, _PACKAGES)))
    return user_cache() / "engines" / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:24]}.json"


def read_timings(path: Path, engines: Sequence[str]) -> dict[str, float] | None:
    """Times [ms] by engine; None where there are none, or where the file is damaged and must be made again.

    Args:
        path: See `timings_path`.
        engines: Engines that there are; times of others, or of fewer, are of no use.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(read_text(path, what="cache of engine times", max_bytes=_MAX_BYTES))
        times = {str(name): float(value) for name, value in content.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        _LOG.warning("the cached engine times %s are damaged (%s); engines are measured again", path, error)
        return None
    if set(times) != set(engines) or not all(math.isfinite(value) and value > 0 for value in times.values()):
        _LOG.warning("the cached engine times %s are of other engines; engines are measured again", path)
        return None
    return times


def write_timings(path: Path, times: Mapping[str, float]) -> None:
    """Keep times [ms]; a folder that cannot be written costs the next start some seconds, so it is no error."""
    try:
        write_whole(path, json.dumps(dict(times)))
    except OSError as error:
        _LOG.info("the engine times are not cached: %s", error)


def _machine() -> tuple[object, ...]:
    """What of this machine and process changes the speed of engines."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return platform.machine(), _processor(), len(os.sched_getaffinity(0)), torch.get_num_threads(), gpu


def _processor() -> str:
    """Model of the CPU; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.lower().startswith(("model name", "cpu part", "hardware"))), "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""

"""Python and the packages that the node needs."""

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from types import ModuleType

from bevdistill_ros.doctor.finding import Finding, fail, ok, warn

_NEEDED = {"torch": "torch", "numpy": "numpy", "cv2": "opencv-python-headless", "yaml": "PyYAML"}
_NEEDED |= {"safetensors": "safetensors"}
_MIN_TORCH = (2, 4)
_PYTHON = ((3, 11), (3, 14))

Importer = Callable[[str], ModuleType]


def check_packages(load: Importer = importlib.import_module) -> list[Finding]:
    """Findings about Python and each package.

    Args:
        load: Imports a module by its name.
    """
    versions: dict[str, str] = {}
    findings = [_check_python(sys.version_info[:2])]
    for name, package in _NEEDED.items():
        try:
            versions[name] = _version_of(load(name))
        except ImportError as error:
            findings.append(fail(name, f"cannot be imported: {error}", f"pip install '{package}'"))
    if importlib.util.find_spec("simplejpeg") is None:
        findings.append(warn("simplejpeg", "not installed: JPEGs are decoded more slowly", "pip install simplejpeg"))
    has_wheel = False
    try:
        versions["cv_bridge"] = _version_of(load("cv_bridge"))
        # A distribution's is a library, whose import fails where it was built for another NumPy.
        has_wheel = str(getattr(load("cv_bridge.boost.cv_bridge_boost"), "__file__", "")).endswith(".py")
    except Exception as error:  # built for another NumPy it raises whatever it likes; the node runs without it
        if not isinstance(error, ModuleNotFoundError):
            findings.append(warn("cv_bridge", f"is there but cannot be imported: {error}", _NUMPY_REMEDY))
    findings += [check_version(name, version, has_cv_bridge_wheel=has_wheel) for name, version in versions.items()]
    return findings


_NUMPY_REMEDY = "the node does without cv_bridge; for your own nodes: pip install 'numpy<2' 'opencv-python-headless<5'"


def check_version(name: str, version: str, *, has_cv_bridge_wheel: bool) -> Finding:
    """Whether a package's version is one that the node, and cv_bridge where it is the wheel of PyPI, work with."""
    numbers = _numbers(version)
    if name == "torch" and numbers < _MIN_TORCH:
        return fail(name, f"version {version} is too old", "install torch 2.4 or newer; see pytorch.org for your GPU")
    if name == "numpy" and numbers >= (2, 0) and has_cv_bridge_wheel:
        return warn(name, f"version {version}, but the cv_bridge wheel is built for NumPy 1", _NUMPY_REMEDY)
    if name == "cv2" and numbers >= (5, 0) and has_cv_bridge_wheel:
        text = f"version {version} has other type constants than 4, which the cv_bridge wheel relies on"
        return fail(name, text, "pip install 'opencv-python-headless<5'")
    return ok(name, version)


def _check_python(version: tuple[int, int]) -> Finding:
    text = ".".join(map(str, version))
    if not _PYTHON[0] <= version <= _PYTHON[1]:
        return warn("python", f"{text} is not tested", "use Python 3.11 to 3.14")
    return ok("python", text)


def _version_of(module: ModuleType) -> str:
    return str(getattr(module, "__version__", "installed"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])

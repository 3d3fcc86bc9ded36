import importlib.util
import os
import signal
import zlib
from pathlib import Path

import pytest

# Before anything imports torch: threads that spin at each barrier stand still on a machine that does other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

# A background job of a shell ignores it, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def _missing_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        return True


def _reason_to_skip(mark: str) -> str | None:
    """Why this machine cannot run a test with the mark, or None."""
    if mark == "ros" and (_missing_module("rclpy") or _missing_module("bevdistill_ros.msg")):
        return "needs rclpy and the built messages: make setup, then source scripts/env.sh"
    if mark == "mmdet3d" and _missing_module("mmdet3d"):
        return "needs mmdet3d: make setup-mmdet3d"
    if mark == "openvino" and _missing_module("openvino"):
        return "needs OpenVINO: pip install openvino"
    if mark == "gpu":
        import torch

        return None if torch.cuda.is_available() else "needs a CUDA device"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Keep the middleware of this worker away from other workers, other runs and the network."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    # 0 is everybody's default; above 101 the ports of Fast DDS meet those that Linux hands out.
    os.environ["ROS_DOMAIN_ID"] = str(1 + (zlib.crc32(run.encode()) + worker) % 101)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Workers share the cores already.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marks = {mark.name for item in items for mark in item.iter_markers()}
    reasons = {mark: reason for mark in marks if (reason := _reason_to_skip(mark))}
    for item in items:
        for mark in item.iter_markers():
            if mark.name in reasons:
                item.add_marker(pytest.mark.skip(reason=reasons[mark.name]))
                break


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor write the cache of the user."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with recorded sensor data that may lie beside the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs recorded sensor data in ../shared/data")
    return SHARED_DATA

"""One node process, shared by the tests of the node and set up again where a test needs other parameters."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from node_process import NodeProcess
    from rclpy.context import Context
    from vehicle import Vehicle

NAME = "/shared/bevdistill_detector"
_stamps = itertools.count(2_000_000_100_000 * 1_000_000, 100_000 * 1_000_000)


class Shared:
    """A running node and the vehicle around it.

    Args:
        process: The node.
        vehicle: The other side.
        bundle: Its bundle.
    """

    def __init__(self, process: "NodeProcess", vehicle: "Vehicle", bundle: Path) -> None:
        self.process = process
        self.vehicle = vehicle
        self.bundle = bundle
        # Whatever a test changes has its place here, so that the next test finds it as it was.
        self._usual = {
            "bundle": str(bundle),
            "cameras": ["LEFT", "FRONT", "RIGHT"],
            "transport": "compressed",
            "missing_camera": "skip",
            "rig_file": str(process.rig_file),
            "ego_motion__source": "odometry",
            "score_threshold": 0.0,
            "sync__policy": "anchor",
            "sync__max_age_ms": 2000.0,
            "use_sim_time": False,
        }
        self._parameters: dict[str, Any] = {}

    def use(self, **parameters: Any) -> "Vehicle":
        """Make the node run with these parameters, and those not named as usual; returns the vehicle."""
        assert set(parameters) <= set(self._usual), "name its usual value above"
        wanted = {**self._usual, **parameters}
        state = self.vehicle.state()
        if state == "active" and wanted == self._parameters:
            return self.vehicle
        self._parameters = {}
        if state == "active":
            assert self.vehicle.change_state("deactivate")
        if state != "unconfigured":
            assert self.vehicle.change_state("cleanup")
        assert all(result.successful for result in self.vehicle.set_parameters(**wanted))
        assert self.vehicle.change_state("configure"), self.process.log
        assert self.vehicle.change_state("activate"), self.process.log
        self.vehicle.transport = wanted["transport"]
        self.vehicle.connect(wanted["cameras"], odometry=wanted["ego_motion__source"] == "odometry")
        self._parameters = wanted
        return self.vehicle

    def forget(self) -> None:
        """Set the node up again next time, as a test has changed it by itself."""
        self._parameters = {}


@pytest.fixture(scope="session")
def vehicle_context() -> Iterator["Context"]:
    """A context of its own, as other tests end the default one."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import write_bundle

    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def _shared(vehicle_context: "Context", bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    from node_process import NodeProcess
    from vehicle import Vehicle

    reliable = f"qos_overrides.{NAME}/input/RIGHT/image.subscription.reliability"
    vehicle = Vehicle(NAME, vehicle_context)
    process = NodeProcess(tmp_path_factory.mktemp("shared"), NAME, bundle=str(bundle), **{reliable: "reliable"})
    try:
        yield Shared(process, vehicle, bundle)
        process.interrupt()
        assert process.wait() == 0, process.log
        assert "Traceback" not in process.log
    finally:
        process.kill()
        vehicle.close()


@pytest.fixture
def shared(_shared: Shared) -> Iterator[Shared]:
    """The shared node; it must outlive each test, and none may make it throw what it does not catch."""
    yield _shared
    assert _shared.process.is_running(), _shared.process.log
    assert "Traceback" not in _shared.process.log


@pytest.fixture
def skipping(shared: Shared) -> "Vehicle":
    """The vehicle around a node for compressed images that skips sets with missing cameras."""
    return shared.use()


@pytest.fixture
def blanking(shared: Shared) -> "Vehicle":
    """The vehicle around a node for raw images that runs with cameras missing."""
    return shared.use(transport="raw", missing_camera="blank")


@pytest.fixture
def stamp() -> int:
    """Far ahead of all stamps before, so that no test sees the memory of another."""
    return next(_stamps)

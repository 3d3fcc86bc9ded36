"""What colcon installs: all that a vehicle needs, and nothing of training."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.ros

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / ".ros" / "install"
FOR_THE_VEHICLE = {"node", "dds", "rviz", "foxglove", "security"}


@pytest.fixture
def share() -> Path:
    share = next(INSTALL.glob("**/share/bevdistill_ros"), None)
    if share is None:
        pytest.skip("needs the package installed by colcon: make setup")
    return share


def test_configuration_of_the_vehicle_is_installed(share: Path) -> None:
    assert {folder.name for folder in (share / "config").iterdir()} == FOR_THE_VEHICLE
    for folder in FOR_THE_VEHICLE:
        names = {path.name for path in (ROOT / "config" / folder).iterdir()}
        assert {path.name for path in (share / "config" / folder).iterdir()} == names


def test_launch_files_and_messages_are_installed(share: Path) -> None:
    for folder, pattern in (("launch", "*.launch.py"), ("msg", "*.msg")):
        expected = {path.name for path in (ROOT / folder).glob(pattern)}
        assert {path.name for path in (share / folder).glob(pattern)} == expected


def test_nothing_of_training_is_installed(share: Path) -> None:
    installed = [path.relative_to(INSTALL) for path in INSTALL.rglob("*")]
    assert not [path for path in installed if "training" in path.parts or path.suffix == ".safetensors"]
    yaml_files = {path.name for path in installed if path.suffix == ".yaml" and "config" in path.parts}
    assert yaml_files == {path.name for path in (ROOT / "config" / "node").glob("*.yaml")}

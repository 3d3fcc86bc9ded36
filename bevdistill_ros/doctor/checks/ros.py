"""The ROS 2 installation: rclpy, the optional packages, and our own messages."""

import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bevdistill_ros.doctor.finding import Finding, fail, ok, warn

MESSAGES = ("Detection3D", "Detection3DArray", "PipelineStatus")
_REBUILD = "build the package again (colcon build, or make setup) and source the workspace"
_SOURCE = "source your ROS 2 distribution and workspace (source install/setup.bash, or scripts/env.sh)"
_OPTIONAL = {
    "message_filters": "a stand-in is used; only sync.policy approximate_time needs the package",
    "tf2_ros": "the node needs a rig_file, and ego_motion.source odometry or none",
    "vision_msgs": "~/output/vision_detections is not published",
}


def has_rclpy() -> bool:
    """Whether rclpy can be imported."""
    try:
        importlib.import_module("rclpy")
    except ImportError:
        return False
    return True


def check_ros(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Findings about the installation."""
    try:
        rclpy = importlib.import_module("rclpy")
    except ImportError as error:
        return [fail("rclpy", f"cannot be imported: {error}", _SOURCE)]
    domain = environment.get("ROS_DOMAIN_ID", "0")
    reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    words = f"{environment.get('ROS_DISTRO', 'no ROS_DISTRO')}, domain {domain}, discovery {reach}"
    findings = [ok("rclpy", f"{rclpy.get_rmw_implementation_identifier()}, {words}")]
    for name, otherwise in _OPTIONAL.items():
        if importlib.util.find_spec(name) is not None:
            findings.append(ok(name, "installed"))
        else:
            findings.append(
                warn(name, f"not installed: {otherwise}", f"in a ROS distribution: {install_command(name)}")
            )
    return [*findings, *_check_messages()]


def _check_messages() -> list[Finding]:
    try:
        module = importlib.import_module("bevdistill_ros.msg")
    except ImportError as error:
        return [fail("messages", f"bevdistill_ros.msg cannot be imported: {error}", _REBUILD)]
    missing = [name for name in MESSAGES if not hasattr(module, name)]
    if missing:
        return [fail("messages", f"{', '.join(missing)} not built", _REBUILD)]
    sources = definition_folders()
    stale = [fault for name in MESSAGES if (fault := compare_definitions(getattr(module, name), name, sources))]
    if stale:
        return [fail("messages", "; ".join(stale), _REBUILD)]
    return [ok("messages", f"{', '.join(MESSAGES)} built" + (" of their definitions" if sources else ""))]


def compare_definitions(message: Any, name: str, folders: Sequence[Path]) -> str:
    """How a built message differs from its definitions in these folders, or they from each other; empty if nowhere."""
    built = list(message.get_fields_and_field_types())
    definitions = {folder / f"{name}.msg": _fields_in(folder / f"{name}.msg") for folder in folders}
    for path, fields in definitions.items():
        names = [field.split()[-1] for field in fields]
        if names != built:
            return f"{name} is built with {', '.join(built)}, but {path} defines {', '.join(names)}"
    if len(set(definitions.values())) > 1:
        return f"{name} has different types of fields in {' and '.join(map(str, definitions))}"
    return ""


def _fields_in(path: Path) -> tuple[str, ...]:
    """Fields of a message definition as `type name`."""
    lines = (line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(" ".join(words) for words in lines if words)


def definition_folders() -> list[Path]:
    """Where definitions of our messages lie: in the source tree and in the install space."""
    folders = [Path(__file__).parents[3] / "msg"]
    try:
        from ament_index_python.packages import get_package_share_directory

        folders.append(Path(get_package_share_directory("bevdistill_ros")) / "msg")
    except (ImportError, KeyError):  # without ROS; not installed as a package
        pass
    return [folder for folder in folders if all((folder / f"{name}.msg").is_file() for name in MESSAGES)]


def install_command(package: str) -> str:
    """How a ROS package is installed."""
    return f"apt install ros-{os.environ.get('ROS_DISTRO', '$ROS_DISTRO')}-{package.replace('_', '-')}"

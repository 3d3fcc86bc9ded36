"""What goes on the vehicle runs with a distribution's NumPy 2 and OpenCV, and asks for no version that it need not."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OF_ROS = re.compile(r"_msgs$|_srvs$|_interfaces$|^rclpy$|^launch|^tf2|_filters$|^ament_")
_PACKAGE_OF = {"tf2_ros": "tf2_ros_py"}  # of a module of another name
NEWER = ("numpy>=2", "opencv-python-headless>=4.12")


def pins(name: str) -> dict[str, str]:
    """Requirements of a file by package, in lower case: what follows the name."""
    lines = (line.split("#")[0].strip() for line in (ROOT / "requirements" / name).read_text().splitlines())
    found = (re.match(r"([A-Za-z0-9_.-]+)(?:\[\w+\])?(.*)", line) for line in lines)
    return {match[1].lower(): match[2] for match in found if match}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def test_the_vehicle_has_lower_bounds_alone_and_training_keeps_them() -> None:
    training = pins("base.txt")
    for name, bound in pins("vehicle.txt").items():
        assert re.fullmatch(r">=[\d.]+", bound), f"{name}{bound}"
        assert name in training
        assert numbers(training[name]) >= numbers(bound)


def test_versions_of_shared_tools_are_the_same() -> None:
    tools = {**pins("base.txt"), **pins("dev.txt")}
    assert {name: tools[name] for name in pins("vehicle-dev.txt")} == pins("vehicle-dev.txt")


def test_the_package_names_what_the_node_imports_of_ros() -> None:
    """Every ROS package that the code and the launch files import is a dependency that rosdep can install."""
    known = {entry.text for entry in ElementTree.parse(ROOT / "package.xml").iter() if entry.tag.endswith("depend")}
    sources = [*(ROOT / "bevdistill_ros").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    text = "\n".join(path.read_text() for path in sources)
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", text, flags=re.MULTILINE))
    imported |= set(re.findall(r"import_module\(\"(\w+)", text))
    of_ros = {_PACKAGE_OF.get(name, name) for name in imported if _OF_ROS.search(name)}
    assert len(of_ros) > 10
    assert of_ros <= known


@pytest.mark.slow
def test_it_runs_with_numpy_2_and_its_opencv(tmp_path: Path) -> None:
    """The vehicle's tests, but those of ROS, with newer wheels before the environment's own."""
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-compile"]
    target = ["--target", str(tmp_path / "newer")]
    installed = subprocess.run([*pip, *target, *NEWER], capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"the wheels cannot be had here: {installed.stderr.strip().splitlines()[-1]}")
    path = [str(tmp_path / "newer"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": ":".join(path), "OMP_NUM_THREADS": "1"}
    probe = [sys.executable, "-c", "import numpy, cv2; print(numpy.__version__)"]
    assert subprocess.run(probe, capture_output=True, text=True, env=environment).stdout.startswith("2.")
    tests = ["-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not ros and not gpu"]
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, "@test/vehicle_tests.txt"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=1200,
    )
    assert found.returncode == 0, found.stdout[-4000:]

"""What the launch files work out; `launch` itself comes with a ROS distribution and is stood in for."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import yaml

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface import fast_dds

ROOT = Path(__file__).parents[2]
STOOD_IN = (
    *("ament_index_python", "ament_index_python.packages", "launch", "launch.actions", "launch.conditions"),
    *("launch.event_handlers", "launch.events", "launch.launch_description_entity"),
    *("launch.launch_description_sources", "launch.substitutions", "launch_ros", "launch_ros.actions"),
)


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for module in STOOD_IN:
        monkeypatch.setitem(sys.modules, module, MagicMock())
    spec = importlib.util.spec_from_file_location("launch_file", ROOT / "launch" / f"{name}.launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def detector(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("detector", monkeypatch)


def test_topics_are_those_of_the_bag_layouts(detector: ModuleType) -> None:
    layouts = pytest.importorskip("bevdistill_ros.interface.topics")
    assert layouts.LAYOUTS
    for name, layout in layouts.LAYOUTS.items():
        pairs = detector.remappings(name, list(NUSCENES_CAMERAS))
        assert {target: source for source, target in pairs} == layout.routes(NUSCENES_CAMERAS, node="~")


def test_no_topics_leave_the_names_of_the_node(detector: ModuleType) -> None:
    assert detector.remappings("", ["A"]) == []
    assert detector.remappings("", ["A"], "/my_odometry") == [("~/input/odometry", "/my_odometry")]
    assert ("~/input/odometry", "/my_odometry") in detector.remappings("bevdistill", ["A"], "/my_odometry")
    assert ("~/input/A/camera_info", "/car1/A/camera_info") in detector.remappings("bevdistill", ["A"], "", "car1")
    with pytest.raises(ValueError, match="layout 'kitti' is not known"):
        detector.remappings("kitti", ["A"])


def test_arguments_override_the_parameter_file(detector: ModuleType) -> None:
    given = {name: default for name, (default, _) in detector.ARGUMENTS.items()}
    assert detector.overriding_parameters(given) == {"use_sim_time": False}
    given |= {"cameras": "[A, B]", "bundle": "model", "topics": "nuscenes2bag", "use_sim_time": "True"}
    expected = {"cameras": ["A", "B"], "bundle": "model", "transport": "raw", "use_sim_time": True}
    # The parameter file's may be none of these cameras.
    assert detector.overriding_parameters(given) == {**expected, "sync.reference_camera": ""}
    assert detector.overriding_parameters({**given, "reference_camera": "B"})["sync.reference_camera"] == "B"
    with pytest.raises(ValueError, match="must be true or false"):
        detector.overriding_parameters({**given, "use_sim_time": "yes"})
    assert detector.overriding_parameters({**given, "transport": "compressed"})["transport"] == "compressed"


def test_own_topics_by_template_or_file(detector: ModuleType, tmp_path: Path) -> None:
    pairs = detector.remappings("", ["A"], image_topic="/{camera}/image_raw/compressed")
    assert ("~/input/A/image/compressed", "/A/image_raw/compressed") in pairs
    assert ("~/input/A/camera_info", "/A/camera_info") in pairs
    path = tmp_path / "mine.yaml"
    path.write_text("cameras: {A: /left/image_rect}\nbase_frame: base_footprint\ntf: /car/tf\n")
    pairs = detector.remappings(str(path), ["A"])
    assert {("~/input/A/image", "/left/image_rect"), ("/tf", "/car/tf")} <= set(pairs)
    given = {name: default for name, (default, _) in detector.ARGUMENTS.items()} | {"topics": str(path)}
    assert detector.overriding_parameters(given)["base_frame"] == "base_footprint"
    with pytest.raises(ValueError, match="has no camera 'B'; it has A"):
        detector.remappings(str(path), ["B"])
    with pytest.raises(ValueError, match="camera_info_topic needs image_topic or topics"):
        detector.remappings("", ["A"], camera_info_topic="/{camera}/info")


def test_log_level_is_that_of_the_node_in_its_namespace(detector: ModuleType) -> None:
    assert detector.logger_name("") == "bevdistill_detector"
    assert detector.logger_name("/car/1/") == "car.1.bevdistill_detector"


def test_cameras_come_from_the_parameter_file(detector: ModuleType) -> None:
    shipped = ROOT / "config" / "node" / "detector.param.yaml"
    assert detector.cameras_in(str(shipped)) == list(NUSCENES_CAMERAS)


def test_profile_is_set_under_the_name_that_the_distribution_reads(
    detector: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.delenv(name, raising=False)
    for distribution, variable in (("kilted", "FASTDDS"), ("jazzy", "FASTRTPS")):
        monkeypatch.setenv("ROS_DISTRO", distribution)
        detector.fast_dds_profile()
        assert detector.SetEnvironmentVariable.call_args.args[0] == f"{variable}_DEFAULT_PROFILES_FILE"
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    assert detector.fast_dds_profile() == []


@pytest.mark.parametrize("distribution", ["humble", "jazzy", "kilted", "lyrical", ""])
def test_the_shell_sets_the_same_variable(distribution: str) -> None:
    environment = {"PATH": os.environ["PATH"], **({"ROS_DISTRO": distribution} if distribution else {})}
    script = f"source {ROOT / 'scripts' / 'env.sh'} && env | grep -o 'F.*_DEFAULT_PROFILES_FILE'"
    found = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert found.split() == [fast_dds.VARIABLES[distribution in fast_dds.OLDER_DISTRIBUTIONS]]


def test_replay_passes_on_arguments_that_the_detector_has(
    detector: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay = load("replay", monkeypatch)
    assert set(replay.PASSED_ON) <= set(detector.ARGUMENTS)
    assert set(replay.PASSED_ON) <= set(replay.ARGUMENTS)
    command = replay.play_command({"bag": "a", "rate": "0.5", "start_delay": "3"})
    assert command[:10] == ["ros2", "bag", "play", "a", "--clock", "100", "--rate", "0.5", "--delay", "3"]


def test_descriptions_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detector", "replay"):
        module = load(name, monkeypatch)
        module.generate_launch_description()
        module.LaunchDescription.assert_called_once()


def test_viewers_show_topics_of_the_node() -> None:
    rviz = yaml.safe_load((ROOT / "config" / "rviz" / "detector.rviz").read_text())
    topics = [display["Topic"]["Value"] for display in rviz["Visualization Manager"]["Displays"] if "Topic" in display]
    foxglove = (ROOT / "config" / "foxglove" / "detector.json").read_text()
    json.loads(foxglove)
    for topic in ("/bevdistill_detector/output/markers", "/bevdistill_detector/output/overlay/compressed"):
        assert topic in topics
        assert topic in foxglove

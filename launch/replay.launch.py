"""Play a recording into the detector, and record what it finds.

    ros2 launch bevdistill_ros replay.launch.py bag:=/path/to/bag bundle:=/path/to/bundle record:=/path/to/new/bag

For scores, `bevdistill replay` does the same and compares with the ground truth.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from bevdistill_ros.interface.topics import DETECTIONS_TOPIC, MARKERS_TOPIC, STATUS_TOPIC
from launch import LaunchContext, LaunchDescription

PACKAGE = "bevdistill_ros"
RECORDED = (DETECTIONS_TOPIC, MARKERS_TOPIC, STATUS_TOPIC, "/diagnostics")
DRAIN_S = 3.0  # the last set is still under way when the recording ends

ARGUMENTS = {  # name: default, description
    "bag": (None, "rosbag2 recording to play"),
    "bundle": (None, "folder of the model bundle"),
    "topics": ("bevdistill", "topic map of the recording: a layout, a template or a YAML file, see detector.launch.py"),
    "image_topic": ("", "image topics, with {camera} for the name; empty: those of topics"),
    "camera_info_topic": ("", "calibration topics, with {camera} for the name; empty: those of topics"),
    "odometry_topic": ("", "topic of the odometry; empty: that of topics"),
    "input_namespace": ("", "goes before the names of the topics in the recording, e.g. /car1"),
    "cameras": ("", "camera names, separated by commas"),
    "reference_camera": ("", "camera that anchors the sets, see detector.launch.py"),
    "rate": ("1.0", "speed; 0.5 takes twice the time"),
    "start_delay": ("10.0", "time that the node has for loading the model [s]"),
    "record": ("", "new rosbag2 recording of the detections; empty: none"),
    "rig_file": ("", "YAML with the mounting of each camera; empty: tf of the recording"),
    "params_file": ("", "parameter file; empty: that of the package"),
    "device": ("", "torch device such as cuda:0"),
    "rviz": ("false", "show the detections in RViz"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}
PASSED_ON = tuple(name for name in ARGUMENTS if name not in ("bag", "rate", "start_delay", "record"))


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, description=description, **({} if default is None else {"default_value": default}))
        for name, (default, description) in ARGUMENTS.items()
    ]
    source = Path(get_package_share_directory(PACKAGE)) / "launch" / "detector.launch.py"
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(source)),
        launch_arguments={**{name: LaunchConfiguration(name) for name in PASSED_ON}, "use_sim_time": "true"}.items(),
    )
    return LaunchDescription([*arguments, detector, OpaqueFunction(function=launch_setup)])


def launch_setup(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    player = ExecuteProcess(cmd=play_command(given), output="screen")
    end = [TimerAction(period=DRAIN_S, actions=[EmitEvent(event=Shutdown(reason="the recording has ended"))])]
    actions = [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=end))]
    if given["record"]:
        actions.append(ExecuteProcess(cmd=record_command(given["record"]), output="screen"))
    return actions


def play_command(given: dict[str, str]) -> list[str]:
    options = ["--clock", "100", "--rate", given["rate"], "--delay", given["start_delay"]]
    return ["ros2", "bag", "play", given["bag"], *options, "--disable-keyboard-controls"]


def record_command(target: str) -> list[str]:
    options = ["--use-sim-time", "--disable-keyboard-controls", "-o", target]
    return ["ros2", "bag", "record", *options, "--topics", *RECORDED]

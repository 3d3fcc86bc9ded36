"""Start the detector.

    ros2 launch bevdistill_ros detector.launch.py bundle:=/path/to/bundle topics:=bevdistill rviz:=true

An argument that is left empty takes its value from the parameter file.
"""

from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from bevdistill_ros.interface import fast_dds
from bevdistill_ros.interface.topic_file import templates, topic_map, with_topics
from bevdistill_ros.interface.topics import LAYOUTS, MARKERS_TOPIC, NODE_NAME, OVERLAY_TOPIC, TopicMap
from launch import LaunchContext, LaunchDescription

PACKAGE = "bevdistill_ros"

ARGUMENTS = {  # name: default, description
    "bundle": ("", "folder of the model bundle"),
    "params_file": ("", "parameter file; empty: that of the package"),
    "cameras": ("", "camera names, separated by commas"),
    "reference_camera": (
        "",
        "camera that anchors the sets; empty: that of the parameter file, or the first of cameras",
    ),
    "transport": ("", "raw or compressed"),
    "rig_file": ("", "YAML with the mounting of each camera; empty: tf"),
    "engine": ("", "auto, torch, onnx or openvino; empty: that of the parameter file"),
    "precision": ("", "fp32, fp16, bf16 or int8; empty: that of the parameter file"),
    "device": ("", "torch device such as cuda:0"),
    "topics": (
        "",
        f"topic map: {', '.join(LAYOUTS)}, a template with {{camera}} or a YAML file; empty: the node's own",
    ),
    "image_topic": ("", "image topics, with {camera} for the name; empty: those of topics"),
    "camera_info_topic": ("", "calibration topics, with {camera} for the name; empty: those of topics"),
    "odometry_topic": ("", "topic of the odometry; empty: that of topics"),
    "input_namespace": ("", "goes before the names that topics stands for, e.g. /car1"),
    "namespace": ("", "namespace of the node"),
    "use_sim_time": ("false", "take the time from /clock"),
    "rviz": ("false", "show the detections in RViz"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
}


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    return LaunchDescription([*arguments, *fast_dds_profile(), OpaqueFunction(function=launch_setup)])


def launch_setup(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    params_file = given["params_file"] or str(share() / "config" / "node" / "detector.param.yaml")
    overrides = overriding_parameters(given)
    cameras = overrides.get("cameras") or cameras_in(params_file)
    detector = Node(
        package=PACKAGE,
        executable="detector_node",
        name=NODE_NAME,
        namespace=given["namespace"],
        parameters=[params_file, overrides],
        remappings=remappings(
            given["topics"],
            cameras,
            given["odometry_topic"],
            given["input_namespace"],
            image_topic=given["image_topic"],
            camera_info_topic=given["camera_info_topic"],
        ),
        arguments=["--ros-args", "--log-level", f"{logger_name(given['namespace'])}:={given['log_level']}"],
        output="screen",
        emulate_tty=True,
    )
    return [detector, *([rviz(given)] if is_true(given["rviz"]) else [])]


def overriding_parameters(given: dict[str, str]) -> dict[str, object]:
    """Parameters that arguments set; what is empty stays as in the parameter file."""
    parameters: dict[str, object] = {
        name: given[name]
        for name in ("bundle", "transport", "rig_file", "engine", "precision", "device")
        if given[name]
    }
    topics = topics_of(given["topics"], image=given["image_topic"], camera_info=given["camera_info_topic"])
    if topics is not None:
        parameters = {**topics.node_parameters(), **parameters}
    if given["cameras"]:
        parameters["cameras"] = [name.strip() for name in given["cameras"].strip("[]").split(",")]
    if given["cameras"] or given["reference_camera"]:
        # The parameter file's may be none of these cameras.
        parameters["sync.reference_camera"] = given["reference_camera"]
    parameters["use_sim_time"] = is_true(given["use_sim_time"])
    return parameters


def topics_of(topics: str, *, image: str, camera_info: str) -> TopicMap | None:
    """The topic map of the arguments; None where the node's own names hold."""
    if topics:
        return with_topics(topic_map(topics), image=image, camera_info=camera_info)
    if camera_info and not image:
        raise ValueError("camera_info_topic needs image_topic or topics")
    return templates(image=image, camera_info=camera_info) if image else None


def logger_name(namespace: str) -> str:
    return ".".join(part for part in [*namespace.split("/"), NODE_NAME] if part)


def is_true(argument: str) -> bool:
    if argument.lower() not in ("true", "false"):
        raise ValueError(f"an argument is '{argument}', but must be true or false")
    return argument.lower() == "true"


def remappings(
    topics: str,
    cameras: list[str],
    odometry_topic: str = "",
    input_namespace: str = "",
    *,
    image_topic: str = "",
    camera_info_topic: str = "",
) -> list[tuple[str, str]]:
    """From the node's input topics to those of a recording or driver."""
    pairs = [("~/input/odometry", odometry_topic)] if odometry_topic else []
    known = topics_of(topics, image=image_topic, camera_info=camera_info_topic)
    if known is None:
        return pairs
    prefix = f"/{input_namespace.strip('/')}" if input_namespace else ""
    routes = known.routes(cameras, node="~")
    if odometry_topic:
        routes.pop(known.odometry, None)
    pairs += [(topic, prefix + source) for source, topic in routes.items()]
    return pairs + [(topic, source) for source, topic in known.transform_routes().items() if topic != source]


def cameras_in(params_file: str) -> list[str]:
    """Cameras that a parameter file names."""
    content = yaml.safe_load(Path(params_file).read_text(encoding="utf-8"))
    for node in content.values():
        cameras = node.get("ros__parameters", {}).get("cameras")
        if cameras:
            return list(cameras)
    raise ValueError(f"{params_file} names no cameras; give the argument cameras")


def fast_dds_profile() -> list[LaunchDescriptionEntity]:
    """The profile without which bursts of images are lost; one that the user has chosen stays."""
    return [SetEnvironmentVariable(name, path) for name, path in fast_dds.transport_environment().items()]


def rviz(given: dict[str, str]) -> Node:
    # The configuration names the topics of a node without a namespace.
    namespace = f"/{given['namespace'].strip('/')}" if given["namespace"] else ""
    return Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(share() / "config" / "rviz" / "detector.rviz")],
        parameters=[{"use_sim_time": is_true(given["use_sim_time"])}],
        remappings=[(topic, namespace + topic) for topic in (MARKERS_TOPIC, OVERLAY_TOPIC)] if namespace else [],
    )


def share() -> Path:
    return Path(get_package_share_directory(PACKAGE))

"""Settings of the doctor."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SECTIONS = ("packages", "ros", "gpu", "bundle", "dds", "topics", "node", "rig")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What `bevdistill doctor` checks; what is not given is taken from the running node, if there is one.

    Raises:
        ValueError: A value is not allowed.
    """

    bundle: Path | None = None  # folder of the model bundle
    params: Path | None = None  # parameter file of the node
    rig: Path | None = None  # rig file with the cameras' matrices and mountings; null: camera_info and tf
    images: Path | None = None  # folder with CAMERA.jpg or CAMERA/*.jpg to draw the rig on where none are live
    picture: Path | None = None  # contact sheet of the rig; null: rig_check.png if rig is given, else none
    cameras: tuple[str, ...] = ()  # names; empty: those of the node, else of the bundle, else of the rig
    device: str = "node"  # auto, cpu, cuda or cuda:<index>; node: that of the node
    engine: Literal["node", "auto", "torch", "onnx", "openvino"] = "node"  # node: that of the node
    precision: Literal["node", "fp32", "fp16", "bf16", "int8"] = "node"  # node: that of the node
    transport: Literal["node", "raw", "compressed"] = "node"  # kind of the image topics; node: that of the node
    topics: str = ""  # topic map: name of a layout or a YAML file; empty: the topics are found by themselves
    image_topic: str = ""  # with {camera} for the name; empty: those of topics
    camera_info_topic: str = ""  # with {camera} for the name
    odometry_topic: str = ""  # nav_msgs/Odometry
    seconds: float = 5.0  # [s] to listen to the topics
    only: tuple[str, ...] = ()  # sections: packages, ros, gpu, bundle, dds, topics, node, rig; empty: all
    json: bool = False  # print the report as JSON

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in SECTIONS]
        if unknown:
            raise ValueError(f"only must name sections out of {', '.join(SECTIONS)}, but names {', '.join(unknown)}")
        if not (math.isfinite(self.seconds) and 0.5 <= self.seconds <= 600.0):
            raise ValueError(f"seconds must be in 0.5...600, but is {self.seconds:g}")
        for name in ("image_topic", "camera_info_topic"):
            topic = getattr(self, name)
            if topic and "{camera}" not in topic:
                raise ValueError(f"{name} must hold {{camera}} where the camera's name stands, but is '{topic}'")

"""The node's parameters: one field each, with its default, its meaning and what it may be."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, cast

from bevdistill_ros.core.image_size import MAX_PIXELS
from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.text import quote
from bevdistill_ros.inference.engine_choice import EngineChoice

_FRAMES = ("base_frame", "odom_frame")
_TOPIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def setting(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A field that becomes a parameter.

    Args:
        default: Its default, which also fixes its type.
        description: Its meaning and unit.
        low: Smallest allowed number.
        high: Largest allowed number.
        choices: Allowed strings.
        live: Whether it may change while the node runs.
    """
    return field(
        default=default,
        metadata={"description": description, "low": low, "high": high, "choices": choices, "live": live},
    )


@dataclass(frozen=True, kw_only=True)
class SyncParameters:
    """How images are synchronised to sets, one image per camera."""

    policy: Literal["anchor", "approximate_time"] = setting(
        "anchor",
        "anchor: sets around the reference camera; approximate_time: the synchroniser of message_filters",
        choices=("anchor", "approximate_time"),
    )
    reference_camera: str = setting(
        "", "camera whose timestamp defines each set; prefer one that fires mid-sweep; empty: the first"
    )
    max_spread_ms: float = setting(100.0, "largest difference of two image stamps in a set [ms]", low=0.1, high=1000.0)
    max_age_ms: float = setting(150.0, "longest wait for the other cameras of a set [ms]", low=1.0, high=5000.0)


@dataclass(frozen=True, kw_only=True)
class TemporalParameters:
    """When the memory of the temporal model is valid, and how old the BEV is that it sees again."""

    max_gap_s: float = setting(
        1.5, "longest time between two sets, beyond it the memory is reset [s]", low=0.05, high=60.0
    )
    max_jump_m: float = setting(
        30.0, "longest move between two sets, beyond it the memory is reset [m]", low=0.1, high=1000.0
    )
    interval_s: float = setting(
        0.5, "age of the previous BEV that the model takes, as in training [s]", low=0.01, high=10.0
    )


@dataclass(frozen=True, kw_only=True)
class EgoMotionParameters:
    """Where the vehicle's motion comes from."""

    source: Literal["odometry", "tf", "none"] = setting(
        "odometry",
        "odometry: topic; tf: odom_frame from base_frame; none: standing still",
        choices=("odometry", "tf", "none"),
    )
    max_wait_ms: float = setting(
        50.0, "longest wait for poses, mountings and calibrations of a set [ms]", low=0.0, high=1000.0
    )
    max_gap_s: float = setting(0.5, "poses further apart are not interpolated [s]", low=0.001, high=10.0)
    max_extrapolation_ms: float = setting(
        250.0,
        "longest extrapolation beyond the newest pose; later sets go without memory [ms]",
        low=0.0,
        high=2000.0,
    )


@dataclass(frozen=True, kw_only=True)
class DiagnosticsParameters:
    """Limits that decide the levels in /diagnostics."""

    period_s: float = setting(1.0, "time between two reports [s]", low=0.1, high=60.0)
    window_s: float = setting(5.0, "time that rates and latencies are taken over [s]", low=0.5, high=120.0)
    warn_rate_hz: float = setting(1.0, "warn below this rate of detections [Hz]", low=0.0, high=1000.0)
    error_rate_hz: float = setting(0.2, "error below this rate of detections [Hz]", low=0.0, high=1000.0)
    warn_latency_ms: float = setting(500.0, "warn above this latency, oldest image to publish [ms]", low=0.0, high=1e6)
    error_latency_ms: float = setting(2000.0, "error above this latency [ms]", low=0.0, high=1e6)
    warn_spread_ms: float = setting(90.0, "warn above this spread of a set [ms]", low=0.0, high=1e6)
    warn_drop_ratio: float = setting(0.2, "warn above this part of dropped sets", low=0.0, high=1.0)
    error_drop_ratio: float = setting(0.8, "error above this part of dropped sets", low=0.0, high=1.0)
    camera_timeout_s: float = setting(
        1.0,
        "a camera that sends nothing for longer counts as missing; another one anchors the sets then [s]",
        low=0.01,
        high=60.0,
    )
    focal_tolerance: float = setting(
        0.15, "allowed relative difference of focal length to the training rig", low=0.0, high=10.0
    )


@dataclass(frozen=True, kw_only=True)
class DetectorParameters:
    """All parameters of the node.

    Raises:
        ValueError: Two parameters do not fit each other.
    """

    autostart: bool = setting(True, "configure and activate the node by itself")
    bundle: str = setting("", "folder of the model bundle, as `bevdistill export` writes it")
    engine: Literal["auto", "torch", "onnx", "openvino"] = setting(
        "auto",
        "what runs the network; auto: the fastest that is installed, exported and reproduces torch's answers",
        choices=("auto", "torch", "onnx", "openvino"),
    )
    precision: Literal["fp32", "fp16", "bf16", "int8"] = setting(
        "fp32",
        "number format; torch: fp32, bf16, on a GPU fp16; onnx: fp32, int8 if exported; openvino: as its device offers",
        choices=("fp32", "fp16", "bf16", "int8"),
    )
    device: str = setting("auto", "device of engine torch, such as cpu or cuda:0; auto: cuda where there is one")
    torch_compile: bool = setting(False, "compile the network of engine torch, which takes a minute or more at start")
    onnx_providers: tuple[str, ...] = setting(
        ("cpu",), "execution providers of engine onnx by preference: tensorrt, cuda, cpu"
    )
    openvino_device: str = setting("CPU", "device of engine openvino: CPU, GPU, GPU.<index> or NPU")
    cameras: tuple[str, ...] = setting(
        NUSCENES_CAMERAS, "camera names; they name the input topics, in the order of the model's cameras"
    )
    transport: Literal["raw", "compressed"] = setting(
        "compressed", "kind of the image topics", choices=("raw", "compressed")
    )
    images_rectified: bool = setting(False, "the images are rectified already: take P instead of K, and no distortion")
    intrinsics: Literal["camera_info", "rig_file"] = setting(
        "camera_info", "where the camera matrices come from", choices=("camera_info", "rig_file")
    )
    base_frame: str = setting("base_link", "frame of the detections: on the ground, x forward, y left, z up")
    odom_frame: str = setting("odom", "frame of ego motion, where ego_motion.source is tf")
    rig_file: str = setting("", "YAML with the mounting of each camera; empty: tf")
    missing_camera: Literal["skip", "blank"] = setting(
        "skip",
        "a set without an image of each camera is skipped, or detected with that camera blank",
        choices=("skip", "blank"),
    )
    score_threshold: float = setting(0.2, "detections below this score are not published", low=0.0, high=1.0, live=True)
    max_detections: int = setting(300, "maximum detections per set", low=1, high=10000, live=True)
    max_image_pixels: int = setting(
        MAX_PIXELS, "pixels that an image may have; a larger one is refused undecoded", low=1, high=4_000_000_000
    )
    decode_threads: int = setting(4, "threads that decode images", low=1, high=32)
    num_threads: int = setting(0, "threads of torch on the CPU; 0: torch's own choice", low=0, high=256)
    sync: SyncParameters = field(default_factory=SyncParameters)
    temporal: TemporalParameters = field(default_factory=TemporalParameters)
    ego_motion: EgoMotionParameters = field(default_factory=EgoMotionParameters)
    diagnostics: DiagnosticsParameters = field(default_factory=DiagnosticsParameters)

    @property
    def engine_choice(self) -> EngineChoice:
        """Which engine runs the bundle, and how."""
        return EngineChoice(
            engine=self.engine,
            precision=self.precision,
            device=self.device,
            compiled=self.torch_compile,
            onnx_providers=self.onnx_providers,
            openvino_device=self.openvino_device,
            num_threads=self.num_threads,
        )

    def __post_init__(self) -> None:
        if not self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"parameter cameras must be different names, at least one, but is {list(self.cameras)}")
        unfit = [name for name in self.cameras if not _TOPIC_NAME.fullmatch(name)]
        if unfit:
            raise ValueError(
                f"parameter cameras names {', '.join(unfit)}, but a name becomes part of a topic: "
                "letters, digits and underscores, beginning with a letter"
            )
        if self.sync.policy == "approximate_time" and self.missing_camera == "blank":
            raise ValueError(
                "sync.policy approximate_time gives complete sets only; "
                "set missing_camera to skip, or sync.policy to anchor"
            )
        if self.sync.reference_camera and self.sync.reference_camera not in self.cameras:
            raise ValueError(
                f"parameter sync.reference_camera is '{self.sync.reference_camera}', "
                f"but must be empty or one of the cameras {', '.join(self.cameras)}"
            )
        if self.intrinsics == "rig_file" and not self.rig_file:
            raise ValueError("parameter intrinsics is rig_file, so rig_file must name one")

    @property
    def reference_camera(self) -> str:
        """The camera whose timestamp defines each set."""
        return self.sync.reference_camera or self.cameras[0]


def settings() -> dict[str, Any]:
    """All parameters by their full names, as dataclass fields."""
    return dict(_settings_of(DetectorParameters, ""))


def build(values: Mapping[str, Any]) -> DetectorParameters:
    """Parameters from values by their full names; what is not named keeps its default.

    Raises:
        ValueError: A name is unknown, a value is not allowed, or two do not fit each other.
    """
    known = settings()
    top: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown parameter {name}; known are {', '.join(known)}")
        check(name, value)
        if name in _FRAMES:
            value = value.lstrip("/")  # of ROS 1; tf2 refuses it
        group, _, leaf = name.rpartition(".")
        (groups.setdefault(group, {}) if group else top)[leaf] = tuple(value) if isinstance(value, list) else value
    kinds = {entry.name: entry.default_factory for entry in fields(DetectorParameters)}
    for group, content in groups.items():
        top[group] = cast(Any, kinds[group])(**content)
    return DetectorParameters(**top)


def check(name: str, value: Any) -> None:
    """Whether a parameter may have a value.

    Raises:
        ValueError: It may not.
    """
    entry = settings()[name]
    limits = entry.metadata
    fits = True
    if isinstance(entry.default, tuple):
        fits = isinstance(value, (list, tuple)) and all(isinstance(item, str) and item for item in value)
    elif isinstance(value, bool) or isinstance(entry.default, bool):
        fits = isinstance(value, bool) and isinstance(entry.default, bool)
    elif not isinstance(value, type(entry.default)):
        fits = False
    elif isinstance(value, str):
        fits = not limits["choices"] or value in limits["choices"]
    elif limits["low"] is not None:
        fits = math.isfinite(value) and limits["low"] <= value <= limits["high"]
    if not fits:
        raise ValueError(f"parameter {name} must be {allowed(entry)}, but is {quote(value)}")


def allowed(entry: Any) -> str:
    """What a parameter may be, in words."""
    limits = entry.metadata
    if limits["choices"]:
        return f"one of {', '.join(limits['choices'])}"
    kind = {bool: "true or false", str: "a string", int: "a whole number", float: "a number with a decimal point"}
    words = kind.get(type(entry.default), "a list of names")
    return words if limits["low"] is None else f"{words} in {limits['low']:g}...{limits['high']:g}"


def _settings_of(kind: Any, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for entry in fields(kind):
        if entry.default is MISSING:
            found += _settings_of(entry.default_factory, f"{prefix}{entry.name}.")
        else:
            found.append((prefix + entry.name, entry))
    return found

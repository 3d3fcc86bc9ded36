"""The topic map of a recording or a running system, as far as names and types of its topics leave no doubt."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonpath
from types import MappingProxyType

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.interface.topics import (
    COMPRESSED_IMAGE,
    LAYOUTS,
    NODE,
    RAW_IMAGE,
    CameraTopics,
    TopicMap,
)

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"

# What drivers call the images of a camera, behind the camera's own name.
_IMAGE_WORDS = {"image", "images", "img", "jpeg", "jpg", "raw", "color", "colour", "rgb", "bgr", "mono", "gray"}
_IMAGE_WORDS |= {"compressed", "rect", "rectified", "resized", "pixels", "stream"}
_OTHER_IMAGES = re.compile(
    r"depth|disparity|infra\d?|confidence|segment|overlay|debug|mask|thermal|lidar|bev|heatmap|annotat|theora"
)
_USUAL_ODOMETRY = (
    "/odom",
    "/odometry/filtered",
    "/localization/kinematic_state",
    "/odometry",
    "/localization/odometry",
)
_SIDES = (
    ("front", ("front", "forward", "fwd", "fw", "f")),
    ("back", ("back", "rear", "backward", "b")),
    ("left", ("left", "l")),
    ("right", ("right", "r")),
)
_INITIALS = {"fl": "front left", "fr": "front right", "bl": "back left", "br": "back right"}
_INITIALS |= {"rl": "back left", "rr": "back right", "fc": "front", "bc": "back", "rc": "back"}


@dataclass(frozen=True, kw_only=True)
class CameraStream:
    """One camera's images, and what belongs to them."""

    name: str  # made of what distinguishes its topics from those of other cameras
    image: str
    image_type: str
    camera_info: str  # empty: none


@dataclass(frozen=True, kw_only=True)
class Guess:
    """What the names say."""

    topics: TopicMap
    source: str  # what it rests on, in words
    doubts: tuple[str, ...] = ()  # why it should be checked before use; empty where it is certain
    unnamed: tuple[CameraStream, ...] = ()  # cameras that could be any of those that are missing


def guess_topics(types: Mapping[str, str], cameras: Sequence[str] = ()) -> Guess:
    """Guess the topic map.

    Args:
        types: Type by topic.
        cameras: Names that the model knows its cameras by; empty: those that the topics give them.
    """
    types = {topic: kind for topic, kind in types.items() if not topic.startswith(NODE)}
    odometry, doubts = _odometry(types)
    for name, layout in LAYOUTS.items():
        found = _kind_of_layout(layout, types, cameras)
        if found:
            topics = replace(layout, image_type=found, odometry=odometry or "")
            return Guess(topics=topics, source=f"names of the layout {name}", doubts=doubts)
    streams = camera_streams(types)
    if not streams:
        return Guess(topics=TopicMap(image="", camera_info=""), source="no images", doubts=("there are no images",))
    named = match_names(cameras, [stream.name for stream in streams]) if cameras else {s.name: s.name for s in streams}
    by_name = {stream.name: stream for stream in streams}
    chosen = {camera: by_name[name] for camera, name in named.items()}
    missing = [camera for camera in cameras if camera not in chosen]
    unnamed = tuple(stream for stream in streams if stream.name not in named.values())
    if missing:
        listed = ", ".join(stream.image for stream in unnamed) or "none"
        doubts += (f"no topic is named like {', '.join(missing)}; topics of other names: {listed}",)
    if len({stream.image_type for stream in chosen.values()}) > 1:
        doubts += ("some cameras have raw images only and some compressed ones only; the node takes one kind",)
    topics = topics_of_streams(chosen, odometry=odometry)
    return Guess(topics=topics, source="topics with the cameras' names", doubts=doubts, unnamed=unnamed)


def topics_of_streams(streams: Mapping[str, CameraStream], *, odometry: str) -> TopicMap:
    """A topic map of cameras by name."""
    kinds = {stream.image_type for stream in streams.values()}
    rectified = [is_rectified_name(stream.image) for stream in streams.values()]
    return TopicMap(
        image="",
        camera_info="",
        image_type=RAW_IMAGE if kinds == {RAW_IMAGE} else COMPRESSED_IMAGE,
        odometry=odometry,
        images_rectified=True if rectified and all(rectified) else None,
        cameras=MappingProxyType(
            {name: CameraTopics(image=entry.image, camera_info=entry.camera_info) for name, entry in streams.items()}
        ),
    )


def is_rectified_name(topic: str) -> bool:
    """Whether image_transport's convention says that the images of a topic are rectified."""
    return any(part.startswith(("image_rect", "rect")) for part in topic.split("/"))


def camera_streams(types: Mapping[str, str]) -> list[CameraStream]:
    """The cameras, each with one image topic.

    Where a camera has several, the kind that most cameras have is taken, then compressed before raw, and rectified
    before distorted images.
    """
    images = [topic for topic, kind in types.items() if kind in (COMPRESSED_IMAGE, RAW_IMAGE)]
    groups: dict[str, list[str]] = {}
    for topic in sorted(images):
        if not any(_OTHER_IMAGES.search(part.lower()) for part in topic.split("/")):
            groups.setdefault(_camera_part(topic), []).append(topic)
    if not groups:
        return []
    share = {
        kind: sum(any(types[topic] == kind for topic in topics) for topics in groups.values())
        for kind in (COMPRESSED_IMAGE, RAW_IMAGE)
    }
    best = max(share, key=lambda kind: share[kind])
    infos = [topic for topic, kind in types.items() if kind == CAMERA_INFO]
    names = _distinct_parts(list(groups))
    streams = []
    for part, topics in groups.items():
        image = min(topics, key=lambda topic: (types[topic] != best, not is_rectified_name(topic), topic))
        info = _camera_info(part, image, infos, only=len(groups) == 1)
        streams.append(CameraStream(name=names[part], image=image, image_type=types[image], camera_info=info))
    return streams


def match_names(wanted: Sequence[str], given: Sequence[str]) -> dict[str, str]:
    """Which of the given names means which wanted one; those that are not certain are left out."""
    found: dict[str, str] = {}
    for alike in (str.lower, _side_of):
        for name in wanted:
            fits = [other for other in given if alike(other) == alike(name) != ""]
            rivals = [other for other in wanted if alike(other) == alike(name)]
            if name not in found and len(fits) == 1 == len(rivals) and fits[0] not in found.values():
                found[name] = fits[0]
    return found


def _side_of(name: str) -> str:
    """The direction in a name such as CAM_FRONT_LEFT, fl_cam or rearRight; empty where it names none or two."""
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
    words = [part for word in words for part in _INITIALS.get(word, word).split()]
    sides = {side for side, meant in _SIDES for word in words if word in meant}
    joined = "".join(words)
    sides |= {side for side, meant in _SIDES if any(len(word) > 3 and word in joined for word in meant)}
    if {"left", "right"} <= sides or {"front", "back"} <= sides:
        return ""
    return " ".join(sorted(sides))


def _kind_of_layout(layout: TopicMap, types: Mapping[str, str], cameras: Sequence[str]) -> str:
    """Type of the images of a layout's cameras, where all of them are there; else empty."""
    names = cameras or NUSCENES_CAMERAS
    topics = [layout.image_topic(camera) for camera in names]
    own = len(set(topics)) == len(topics) and all(topic in types for topic in topics)
    kinds = {types[topic] for topic in topics} if own else set()
    return kinds.pop() if len(kinds) == 1 and kinds <= {COMPRESSED_IMAGE, RAW_IMAGE} else ""


def _odometry(types: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The odometry, empty where there is none, and whether others could be meant."""
    found = sorted(topic for topic, kind in types.items() if kind == ODOMETRY)
    usual = [topic for topic in _USUAL_ODOMETRY if topic in found]
    if len(found) < 2:
        return (found[0] if found else ""), ()
    if usual:
        return usual[0], ()
    return found[0], (f"there are several odometries: {', '.join(found)}",)


def _camera_part(topic: str) -> str:
    """The part of an image topic that names the camera."""
    parts = topic.strip("/").split("/")
    while len(parts) > 1 and _IMAGE_WORDS.issuperset(parts[-1].lower().split("_")):
        parts.pop()
    return "/".join(parts)


def _distinct_parts(parts: Sequence[str]) -> dict[str, str]:
    """Short names of cameras, of what their topics do not have in common."""
    split = [part.split("/") for part in parts]
    before = 0
    while len(split) > 1 and len({tuple(entry[: before + 1]) for entry in split}) == 1:
        before += 1
    after = 0
    while len(split) > 1 and len({tuple(entry[len(entry) - after - 1 :]) for entry in split}) == 1:
        after += 1
    names: dict[str, str] = {}
    for part, entry in zip(parts, split, strict=True):
        own = entry[before : len(entry) - after] if len(split) > 1 else entry[-1:]
        name = re.sub(r"[^A-Za-z0-9_]", "_", "_".join(own)) or "camera"
        name = name if name[0].isalpha() else f"camera_{name.lstrip('_')}"
        while name in names.values():
            name += "_"
        names[part] = name
    return names


def _camera_info(part: str, image: str, infos: Sequence[str], *, only: bool) -> str:
    """The calibration beside an image topic; empty where none belongs to it."""
    beside = [info for info in infos if info.strip("/").startswith(f"{part}/") or info.strip("/") == part]
    if not beside and only and len(infos) == 1:
        return infos[0]
    return max(beside, key=lambda info: (len(commonpath([info, image])), -len(info)), default="")

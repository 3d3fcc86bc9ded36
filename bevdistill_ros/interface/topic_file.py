"""Topic maps as users give them: the name of a layout, a template, or a YAML file.

image_type: compressed            # or raw; by default what the topics' names say
images_rectified: true
odometry: /vehicle/odometry       # null: none
base_frame: base_footprint
cameras:                          # one by one ...
  CAM_FRONT: {image: /front_wide/image_rect/compressed, camera_info: /front_wide/camera_info}
  CAM_BACK: /rear/image_rect/compressed
image: /{camera}/image/compressed # ... or by a template,
camera_info: /{camera}/camera_info
names: {CAM_LEFT: left_fisheye}   # in which {camera} may be another name
"""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from bevdistill_ros.core.files import read_text, write_whole
from bevdistill_ros.interface.topics import (
    COMPRESSED_IMAGE,
    LAYOUTS,
    RAW_IMAGE,
    CameraTopics,
    TopicMap,
    absolute,
    is_compressed_name,
    layout_named,
)

MAX_FILE_BYTES = 1_000_000
_TYPES = {"compressed": COMPRESSED_IMAGE, "raw": RAW_IMAGE}
_TEXTS = ("image", "camera_info", "odometry", "tf", "tf_static", "base_frame", "odom_frame")
_KEYS = (*_TEXTS, "image_type", "images_rectified", "names", "cameras")
_HEAD = "# Topic map: where a recording or a driver keeps what the detector needs.\n"


def topic_map(given: str) -> TopicMap:
    """The topic map that a user means.

    Args:
        given: The name of a layout, a template of the image topics with `{camera}`, or the path of a YAML file.

    Raises:
        ValueError: It is none of these, or the file is not a topic map.
    """
    if given in LAYOUTS:
        return layout_named(given)
    if "{camera}" in given:
        return templates(image=given)
    if Path(given).suffix in (".yaml", ".yml") or Path(given).is_file():
        return read_topic_map(Path(given))
    if "/" in given:
        raise ValueError(f"'{given}' is neither a template with {{camera}} nor a YAML file that exists")
    return layout_named(given)


def templates(*, image: str, camera_info: str = "", odometry: str = "") -> TopicMap:
    """A topic map of templates with `{camera}`; what is empty follows from the image topics.

    The images' type and whether they are rectified follow from the topic's name, camera_info is its sibling.
    """
    base = image.removesuffix("/compressed").rpartition("/")[0]
    return TopicMap(
        image=absolute(image),
        image_type=COMPRESSED_IMAGE if is_compressed_name(image) else RAW_IMAGE,
        camera_info=absolute(camera_info or f"{base}/camera_info"),
        odometry=absolute(odometry or TopicMap().odometry),
        images_rectified=True if "image_rect" in image else None,
    )


def with_topics(topics: TopicMap, *, image: str = "", camera_info: str = "", odometry: str = "") -> TopicMap:
    """A topic map with a user's own names in place of some; empty ones change nothing.

    Raises:
        ValueError: `image` or `camera_info` lacks `{camera}`, or a name cannot be a topic.
    """
    if image:
        guessed = templates(image=image)
        topics = replace(topics, image=guessed.image, image_type=guessed.image_type, cameras=MappingProxyType({}))
        topics = replace(topics, images_rectified=guessed.images_rectified)
        camera_info = camera_info or guessed.camera_info
    if camera_info:
        own = {
            name: replace(entry, camera_info=camera_info.replace("{camera}", topics.names.get(name, name)))
            for name, entry in topics.cameras.items()
        }
        topics = replace(topics, camera_info=absolute(camera_info), cameras=MappingProxyType(own))
    return replace(topics, odometry=absolute(odometry)) if odometry else topics


def read_topic_map(path: Path) -> TopicMap:
    """Read a YAML file.

    Raises:
        ValueError: It cannot be read or is not a topic map; one line names the file, the key and what is allowed.
    """
    where = f"topic map {path}"
    try:
        content = yaml.safe_load(read_text(path, what="topic map", max_bytes=MAX_FILE_BYTES))
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{where} is not YAML: {error.problem}{line}") from error
    except (yaml.YAMLError, RecursionError, AttributeError, TypeError) as error:
        raise ValueError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return _topic_map_of(content)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def write_topic_map(topics: TopicMap, path: Path, notes: tuple[str, ...] = ()) -> None:
    """Write a YAML file that `read_topic_map` reads back; `notes` stand in it as comments."""
    plain: dict[str, Any] = {"image_type": topics.transport}
    if topics.images_rectified is not None:
        plain["images_rectified"] = topics.images_rectified
    plain |= {name: getattr(topics, name) or None for name in ("odometry", "tf", "tf_static")}
    plain |= {name: getattr(topics, name) for name in ("base_frame", "odom_frame") if getattr(topics, name)}
    if topics.image:
        plain |= {"image": topics.image, "camera_info": topics.camera_info or None, "names": dict(topics.names)}
    plain["cameras"] = {
        name: {"image": entry.image, **({"camera_info": entry.camera_info} if entry.camera_info else {})}
        for name, entry in topics.cameras.items()
    }
    plain = {key: value for key, value in plain.items() if value != {}}
    comments = "".join(f"# {' '.join(note.split())}\n" for note in notes)
    write_whole(Path(path), _HEAD + comments + yaml.safe_dump(plain, sort_keys=False, width=120))


def _topic_map_of(content: object) -> TopicMap:
    entries = _mapping(content, "the file")
    for key in entries:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; known are {', '.join(_KEYS)}"
            raise ValueError(f"unknown key '{key}'{hint}")
    texts = {key: _text(entries[key], key) for key in _TEXTS if key in entries}
    cameras = {name: _camera(entry, name) for name, entry in _mapping(entries.get("cameras"), "cameras").items()}
    if not cameras and not texts.get("image"):
        raise ValueError("it names no cameras: give cameras, or the template image with {camera}")
    for key in ("tf", "tf_static"):
        if key in texts and not texts[key]:
            raise ValueError(f"{key} must be a topic")
    names = {name: _text(entry, f"names.{name}") for name, entry in _mapping(entries.get("names"), "names").items()}
    if names and not texts.get("image"):
        raise ValueError("names only serves the template image, which is not given")
    images = [texts.get("image", ""), *(topics.image for topics in cameras.values())]
    known = {key: absolute(text) if not key.endswith("_frame") else text.lstrip("/") for key, text in texts.items()}
    default_info = "" if "image" not in texts else templates(image=texts["image"]).camera_info
    return TopicMap(
        **{"image": "", "camera_info": default_info, **known},
        image_type=_type_of(entries.get("image_type"), [image for image in images if image]),
        images_rectified=_flag(entries.get("images_rectified"), "images_rectified"),
        names=MappingProxyType(names),
        cameras=MappingProxyType(cameras),
    )


def _camera(content: object, name: str) -> CameraTopics:
    where = f"cameras.{name}"
    if isinstance(content, str):
        return CameraTopics(image=absolute(content))
    entries = _mapping(content, where)
    unknown = [str(key) for key in entries if key not in ("image", "camera_info")]
    if unknown or not entries.get("image"):
        fault = f"has an unknown key '{unknown[0]}'" if unknown else "lacks image"
        raise ValueError(f"{where} {fault}; it is an image topic, or holds image and camera_info")
    texts = {key: absolute(_text(value, f"{where}.{key}")) for key, value in entries.items()}
    return CameraTopics(**texts)


def _type_of(given: object, images: list[str]) -> str:
    if given is None:
        kinds = {is_compressed_name(image) for image in images}
        if len(kinds) > 1:
            raise ValueError("some image topics are compressed and some raw, by their names; the node takes one kind")
        return COMPRESSED_IMAGE if kinds == {True} else RAW_IMAGE
    if given not in _TYPES:
        raise ValueError(f"image_type must be {' or '.join(_TYPES)}, but is {given!r}")
    return _TYPES[str(given)]


def _mapping(content: object, where: str) -> Mapping[Any, Any]:
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ValueError(f"{where} must be a mapping, but is {content!r:.80}")
    bad = [key for key in content if not isinstance(key, str)]
    if bad:
        raise ValueError(f"{where} has the key {bad[0]!r}, which is not text; put it in quotes")
    return content


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be text, but is {value!r:.80}")
    return value


def _flag(value: object, where: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{where} must be true or false, but is {value!r:.80}")
    return value

"""The topic map of a replay: what the user said, fitted to what the bag has, or guessed where the user said nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from bevdistill_ros.core.rig import CameraRig
from bevdistill_ros.interface.topic_file import topic_map, with_topics
from bevdistill_ros.interface.topic_guess import Guess, camera_streams, guess_topics, match_names, topics_of_streams
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, LAYOUTS, RAW_IMAGE, TopicMap
from training.bag.read_bag import Bag, BagError
from training.bag.rig import Frames, camera_frame, frames_of
from training.bag.write_bag import BASE_FRAME

MAX_ANGLE_DEG = 35.0  # between a camera of the bag and the camera of training whose place it takes
CLEAR_DEG = 15.0  # the next best must be so much worse


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user said about the topics of a bag."""

    layout: str = "auto"  # auto, a layout's name, a template with {camera}, or a YAML file
    image_topic: str = ""  # with {camera}; empty: that of layout
    camera_info_topic: str = ""  # with {camera}; empty: that of layout
    odometry_topic: str = ""  # empty: that of layout
    base_frame: str = ""  # empty: that of layout, or what the cameras are mounted on


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A topic map, and what was decided on the way."""

    topics: TopicMap
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()  # what remains open; empty where all cameras are found


def choose_topics(wish: Wish, bag: Bag | None, cameras: Sequence[str], rig: CameraRig | None) -> Chosen:
    """The topic map for a bag.

    Args:
        wish: What the user said.
        bag: The bag; None where it is still to be written by us.
        cameras: Cameras of the model.
        rig: Cameras of its training, by which cameras of other names are recognised.

    Raises:
        ValueError: The user's topic map is not usable.
        BagError: The bag lacks a topic that the user named.
    """
    own = {"image": wish.image_topic, "camera_info": wish.camera_info_topic, "odometry": wish.odometry_topic}
    if wish.layout != "auto":
        chosen = Chosen(topics=with_topics(topic_map(wish.layout), **own))
    elif wish.image_topic or bag is None:
        chosen = Chosen(topics=with_topics(LAYOUTS["bevdistill"], **own))
    else:
        chosen = guess_for_bag(bag, cameras, rig)
        if not chosen.topics.image and not camera_streams(bag.topics):
            chosen = Chosen(topics=LAYOUTS["bevdistill"])  # whoever checks it names what is missing
        chosen = replace(chosen, topics=with_topics(chosen.topics, camera_info="", odometry=wish.odometry_topic))
    if bag is None:
        return chosen
    chosen = _named(chosen, bag, cameras, rig)
    if chosen.topics.missing(cameras):
        return chosen
    chosen = _typed(chosen, bag, cameras)
    chosen = _with_odometry(chosen, bag, wish.odometry_topic)
    return chosen if wish.base_frame else _with_base_frame(chosen, bag, cameras)


def guess_for_bag(bag: Bag, cameras: Sequence[str], rig: CameraRig | None) -> Chosen:
    """The topic map by the names of a bag's topics, and by where its cameras look where names do not say."""
    guess = guess_topics(bag.topics, cameras)
    found = _by_direction(guess, bag, cameras, rig) if rig is not None else {}
    if found:
        streams = {entry.name: entry for entry in guess.unnamed}
        own = topics_of_streams({camera: streams[name] for camera, name in found.items()}, odometry="")
        both = MappingProxyType({**guess.topics.cameras, **own.cameras})
        rectified = own.images_rectified if not guess.topics.cameras else guess.topics.images_rectified
        topics = replace(guess.topics, cameras=both, image_type=own.image_type, images_rectified=rectified)
        listed = ", ".join(f"{camera} is {streams[name].image}" for camera, name in found.items())
        doubts = tuple(doubt for doubt in guess.doubts if "no topic is named like" not in doubt)
        return Chosen(topics=topics, notes=(f"cameras by their direction: {listed}",), doubts=doubts)
    return Chosen(topics=guess.topics, notes=(f"topics: {guess.source}",), doubts=guess.doubts)


def match_directions(axes: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Which camera looks where a wanted one looks; empty unless that is clear for all of them.

    Args:
        axes: Optical axis (3,) in the frame of the vehicle, by camera.
        wanted: The same by the names that are wanted.
    """
    found: dict[str, str] = {}
    for name, axis in wanted.items():
        angles = {other: np.degrees(np.arccos(np.clip(axis @ own, -1, 1))) for other, own in axes.items()}
        order = sorted(angles, key=lambda other: angles[other])
        if not order or angles[order[0]] > MAX_ANGLE_DEG:
            return {}
        if len(order) > 1 and angles[order[1]] - angles[order[0]] < CLEAR_DEG:
            return {}
        found[name] = order[0]
    return found if len(set(found.values())) == len(found) else {}


def _by_direction(guess: Guess, bag: Bag, cameras: Sequence[str], rig: CameraRig | None) -> dict[str, str]:
    """Name of the stream for each camera that no topic is named like."""
    missing = guess.topics.missing(cameras)
    if not missing or rig is None or any(name not in rig.names for name in missing) or not guess.unnamed:
        return {}
    streams = {entry.name: entry for entry in guess.unnamed}
    topics = topics_of_streams(streams, odometry=guess.topics.odometry)
    return _matched(bag, topics, list(streams), rig, missing)


def _matched(bag: Bag, topics: TopicMap, names: Sequence[str], rig: CameraRig, wanted: Sequence[str]) -> dict[str, str]:
    frames = frames_of(bag, topics)
    own = {name: camera_frame(bag, topics, name) for name in names}
    base_frame = topics.base_frame or frames.base_frame(list(own.values()))
    mountings = {name: frames.transform(frame, base_frame) for name, frame in own.items()}
    axes = {name: matrix[:3, 2] for name, matrix in mountings.items() if matrix is not None}
    if len(axes) < len(wanted):
        return {}
    training = {name: rig.ego_from_camera[rig.names.index(name)][:3, 2].double().numpy() for name in wanted}
    return match_directions(axes, training)


def _named(chosen: Chosen, bag: Bag, cameras: Sequence[str], rig: CameraRig | None) -> Chosen:
    """Cameras of a topic map under the model's names, where it has others."""
    topics, missing = chosen.topics, chosen.topics.missing(cameras)
    if not missing:
        return chosen
    free = [name for name in topics.cameras if name not in cameras]
    found = match_names(missing, free)
    how = "name"
    if len(found) < len(missing) and rig is not None and all(name in rig.names for name in missing):
        found, how = _matched(bag, topics, free, rig, missing), "direction"
    if len(found) < len(missing):
        listed = ", ".join(topics.cameras) or "none"
        doubt = f"the topic map does not know the model's cameras {', '.join(missing)}; it has {listed}"
        return replace(chosen, doubts=(*chosen.doubts, doubt))
    renamed = {camera: topics.cameras[name] for camera, name in found.items()}
    kept = {name: entry for name, entry in topics.cameras.items() if name in cameras}
    note = f"cameras by their {how}: {', '.join(f'{camera} is {name}' for camera, name in found.items())}"
    topics = replace(topics, cameras=MappingProxyType({**kept, **renamed}))
    return replace(chosen, topics=topics, notes=(*chosen.notes, note))


def _typed(chosen: Chosen, bag: Bag, cameras: Sequence[str]) -> Chosen:
    """With the type that the images have in the bag."""
    kinds = {bag.topics.get(chosen.topics.image_topic(camera)) for camera in cameras}
    if kinds == {chosen.topics.image_type} or len(kinds) != 1 or not kinds <= {COMPRESSED_IMAGE, RAW_IMAGE}:
        return chosen
    kind = str(kinds.pop())
    note = f"the images in the bag are {kind}, not {chosen.topics.image_type}"
    return replace(chosen, topics=replace(chosen.topics, image_type=kind), notes=(*chosen.notes, note))


def _with_odometry(chosen: Chosen, bag: Bag, wanted: str) -> Chosen:
    """Without an odometry that the bag does not have."""
    topic = chosen.topics.odometry
    if not topic or bag.counts.get(topic):
        return chosen
    if wanted:
        raise BagError(f"{bag.path} has no {topic}; it has {', '.join(bag.topics)}")
    note = f"the bag has no odometry on {topic}"
    return replace(chosen, topics=replace(chosen.topics, odometry=""), notes=(*chosen.notes, note))


def _with_base_frame(chosen: Chosen, bag: Bag, cameras: Sequence[str]) -> Chosen:
    """With the frame that the cameras are mounted on, where the map names none and base_link is not it."""
    if chosen.topics.base_frame or not cameras:
        return chosen
    frames: Frames = frames_of(bag, chosen.topics)
    own = [camera_frame(bag, chosen.topics, camera) for camera in cameras]
    if all(frames.transform(frame, BASE_FRAME) is not None for frame in own):
        is_odometry = frames.odometry_child in ("", BASE_FRAME) or frames.odometry_child not in frames.ancestors(own[0])
        if is_odometry:
            return chosen
    found = frames.base_frame(own)
    if not found or found == BASE_FRAME:
        return chosen
    note = f"base_frame is {found}, which the cameras are mounted on"
    return replace(chosen, topics=replace(chosen.topics, base_frame=found), notes=(*chosen.notes, note))

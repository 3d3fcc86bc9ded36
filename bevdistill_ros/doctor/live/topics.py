"""The topics that the doctor listens to: those of the running node, else those that are published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bevdistill_ros.interface.topic_guess import ODOMETRY, guess_topics
from bevdistill_ros.interface.topics import LAYOUTS, NODE, TopicMap, image_type_of, own_image_topic

Types = Mapping[str, Sequence[str]]  # topic: types


@dataclass(frozen=True, kw_only=True)
class Topics:
    """Names of the input topics; a name may be of a topic that nobody publishes."""

    images: Mapping[str, str]  # by camera
    camera_infos: Mapping[str, str]  # by camera
    odometry: str
    source: str  # where the names come from, in words


def find_topics(cameras: Sequence[str], transport: str, *, node: str, subscribed: Types, published: Types) -> Topics:
    """Topics of these cameras, by the node's own names, by a known layout, or by the camera's name in the topic's.

    Args:
        cameras: Camera names.
        transport: raw or compressed.
        node: Name of the running node; empty where none runs.
        subscribed: What the running node listens to.
        published: What is published.
    """
    image_type = image_type_of(transport)
    own = _own_topics(cameras, transport, node or NODE)
    for where, pool in (("the node listens to", subscribed), ("is published", published)):
        candidates = [own, *_layout_topics(cameras), _topics_by_name(cameras, pool)]
        best = max(candidates, key=lambda topics: _score(topics, pool, image_type))
        if _score(best, pool, image_type):
            return replace(_with_odometry(best, pool), source=f"{best.source}, which {where}")
    return own


def topics_of(topics: TopicMap, cameras: Sequence[str], *, source: str) -> Topics:
    """The topics that a topic map names; a camera that it does not know is a ValueError."""
    return Topics(
        images={camera: topics.image_topic(camera) for camera in cameras},
        camera_infos={camera: topics.camera_info_topic(camera) for camera in cameras},
        odometry=topics.odometry,
        source=source,
    )


def override(topics: Topics, *, image: str, camera_info: str, odometry: str) -> Topics:
    """The same with the user's own names, in which `{camera}` is the camera's; empty names change nothing."""
    cameras = topics.camera_infos
    return Topics(
        images={name: image.format(camera=name) for name in cameras} if image else topics.images,
        camera_infos={name: camera_info.format(camera=name) for name in cameras} if camera_info else cameras,
        odometry=odometry or topics.odometry,
        source="as you said" if image else topics.source,
    )


def _score(topics: Topics, pool: Types, image_type: str) -> int:
    """More, the more image topics are there; one of the right type counts double."""
    found = [pool[topic] for topic in topics.images.values() if topic in pool]
    return sum(2 if image_type in types else 1 for types in found)


def _own_topics(cameras: Sequence[str], transport: str, node: str) -> Topics:
    return Topics(
        images={camera: own_image_topic(camera, transport, node) for camera in cameras},
        camera_infos={camera: f"{node}/input/{camera}/camera_info" for camera in cameras},
        odometry=f"{node}/input/odometry",
        source="the node's own names",
    )


def _layout_topics(cameras: Sequence[str]) -> list[Topics]:
    return [topics_of(layout, cameras, source=f"names of the layout {name}") for name, layout in LAYOUTS.items()]


def _topics_by_name(cameras: Sequence[str], pool: Types) -> Topics:
    """Topics that are named like the cameras, or by a layout; a camera without one has a name that nobody publishes."""
    guess = guess_topics({topic: types[0] for topic, types in pool.items() if types}, cameras)
    known = [camera for camera in cameras if not guess.topics.missing([camera])]
    return Topics(
        images={camera: f"/{camera}/image" for camera in cameras}
        | {camera: guess.topics.image_topic(camera) for camera in known},
        camera_infos={camera: f"/{camera}/camera_info" for camera in cameras}
        | {camera: guess.topics.camera_info_topic(camera) for camera in known},
        odometry=guess.topics.odometry or "/odom",
        source=guess.source,
    )


def _with_odometry(topics: Topics, pool: Types) -> Topics:
    """With the only odometry there is, where the expected one is not."""
    found = [topic for topic, types in pool.items() if ODOMETRY in types]
    return replace(topics, odometry=found[0]) if topics.odometry not in pool and len(found) == 1 else topics

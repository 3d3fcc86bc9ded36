"""Which topics of a bag become what of a data set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bevdistill_ros.core.nuscenes import NUSCENES_CAMERAS
from bevdistill_ros.core.rig import VehicleRig
from bevdistill_ros.inference.rig_file import load_rig
from bevdistill_ros.interface.topic_guess import camera_streams
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, RAW_IMAGE, TopicMap
from training.bag.choose_topics import Chosen, choose_topics
from training.bag.foreign_types import AUTOWARE_KINDS, AUTOWARE_PACKAGES, VISION_ARRAY
from training.bag.messages import DETECTIONS_TYPE
from training.bag.read_bag import Bag, BagError
from training.bag.write_bag import BASE_FRAME, SAMPLE_TOPIC
from training.bag_import.config import BagImportConfig
from training.data.tables import LIDAR

CLOUD_TYPE = "sensor_msgs/msg/PointCloud2"
MARKERS_TYPE = "visualization_msgs/msg/MarkerArray"
STRING_TYPE = "std_msgs/msg/String"
AUTOWARE_TYPES = tuple(f"{package}/msg/{kind}" for package in AUTOWARE_PACKAGES for kind in AUTOWARE_KINDS)
ANNOTATION_TYPES = (VISION_ARRAY, *AUTOWARE_TYPES, DETECTIONS_TYPE, MARKERS_TYPE)  # the first that there is, is taken
_TRUTH = re.compile(r"annotat|ground_?truth|(^|[/_])gt([/_]|$)|label")
_WHOLE_SCAN = re.compile(r"concat|fused|merged|lidar_top|top_lidar|lidar/top")
_MAX_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What of a bag is imported."""

    topics: TopicMap
    cameras: tuple[str, ...]
    lidar: str  # topic; empty: none
    annotations: str  # topic; empty: none
    rig: VehicleRig | None  # of the cameras, in place of what the bag says
    notes: tuple[str, ...]  # what was decided on the way

    @property
    def base_frame(self) -> str:
        """Frame of the vehicle."""
        return self.topics.base_frame or BASE_FRAME

    def images(self) -> dict[str, str]:
        """Camera by the topic of its images."""
        return {self.topics.image_topic(camera): camera for camera in self.cameras}

    def sensors(self) -> dict[str, str]:
        """Channel by topic, of images and points."""
        return {**self.images(), **({self.lidar: LIDAR} if self.lidar else {})}

    def infos(self) -> dict[str, str]:
        """Camera by the topic of its calibration."""
        pairs = ((self.topics.camera_info_topic(camera), camera) for camera in self.cameras)
        return {topic: camera for topic, camera in pairs if topic}


def find_sources(config: BagImportConfig, bag: Bag) -> Sources:
    """Decide by the settings, and where they say nothing by names and types of the topics.

    Raises:
        BagError: The bag lacks what the settings name, has no images, or several topics could be meant.
        ValueError: The topic map or the rig file is not usable.
    """
    rig = load_rig(config.rig, what="rig") if config.rig is not None else None
    chosen, cameras = _choose_cameras(config, bag, rig)
    topics = chosen.topics
    if lacking := [name for name in cameras if not bag.counts.get(topics.image_topic(name))]:
        first = topics.image_topic(lacking[0])
        raise BagError(f"{bag.path} has no images of {', '.join(lacking)}: {first} is missing; it has {_listed(bag)}")
    if rig is not None and (unknown := [name for name in cameras if name not in rig.names]):
        raise BagError(f"the rig file has no camera {', '.join(unknown)}; it has {', '.join(rig.names)}")
    notes = [note for note in chosen.notes if "no odometry" not in note]
    return Sources(
        topics=topics,
        cameras=cameras,
        lidar=_lidar_topic(config.lidar_topic, bag),
        annotations=_annotation_topic(config.annotation_topic, bag),
        rig=rig,
        notes=tuple(notes),
    )


def _choose_cameras(config: BagImportConfig, bag: Bag, rig: VehicleRig | None) -> tuple[Chosen, tuple[str, ...]]:
    """The topic map, and the cameras by the names that they get."""
    wish = config.wish
    if wish.layout == "auto" and not wish.image_topic and bag.counts.get(SAMPLE_TOPIC):
        wish = type(wish)(**{**vars(wish), "layout": "bevdistill"})
    chosen = choose_topics(wish, bag, config.cameras, None)
    if config.cameras and (missing := chosen.topics.missing(config.cameras)):
        reason = "; ".join(chosen.doubts) or f"no topic is named like {', '.join(missing)}"
        raise BagError(f"{bag.path}: {reason}; name the topics in a YAML file (layout)")
    cameras = config.cameras or cameras_of(chosen.topics, bag.topics)
    if not cameras:
        hint = "layout names them" if camera_streams(bag.topics) else "an import needs cameras"
        raise BagError(f"{bag.path} has no images of the topic map; {hint}; it has {_listed(bag)}")
    if not config.cameras:  # base frame and odometry follow from the cameras
        chosen = choose_topics(wish, bag, cameras, None)
    return chosen, cameras


def cameras_of(topics: TopicMap, types: Mapping[str, str]) -> tuple[str, ...]:
    """Cameras of a topic map: those that it names, or those whose topics fit its template; nuScenes' in our order."""
    found = list(topics.cameras)
    if topics.image and not found:
        head, tail = (re.escape(part) for part in topics.image.split("{camera}", 1))
        pattern = re.compile(f"{head}(.+){tail.replace(re.escape('{camera}'), '.+')}")
        names = {short: name for name, short in topics.names.items()}
        images = [topic for topic, kind in types.items() if kind in (COMPRESSED_IMAGE, RAW_IMAGE)]
        matches = [match[1] for topic in sorted(images) if (match := pattern.fullmatch(topic))]
        found = [names.get(part, part) for part in matches if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", part)]
    return tuple([name for name in NUSCENES_CAMERAS if name in found] + [n for n in found if n not in NUSCENES_CAMERAS])


def _lidar_topic(wanted: str, bag: Bag) -> str:
    if wanted not in ("auto", ""):
        bag.check_type(wanted, CLOUD_TYPE)
        return wanted
    clouds = [topic for topic in _filled(bag, CLOUD_TYPE) if wanted == "auto"]
    if len(clouds) > 1:
        whole = [topic for topic in clouds if _WHOLE_SCAN.search(topic.lower())]
        if len(whole) != 1:
            raise BagError(
                f"{bag.path} has several point clouds: {', '.join(clouds[:_MAX_NAMED])}; name one with lidar_topic, or "
                "leave it empty"
            )
        return whole[0]
    return clouds[0] if clouds else ""


def _annotation_topic(wanted: str, bag: Bag) -> str:
    """The topic of the annotations; detections are taken for such only where the user says so."""
    if wanted not in ("auto", ""):
        kind = bag.topics.get(wanted)
        if kind is None:
            raise BagError(f"{bag.path} has no {wanted}; it has {_listed(bag)}")
        if kind not in (*ANNOTATION_TYPES, STRING_TYPE):
            raise BagError(f"{bag.path}: {wanted} holds {kind}, which has no boxes; known are {_kinds()}")
        return wanted
    if wanted == "" or bag.counts.get(SAMPLE_TOPIC):
        return SAMPLE_TOPIC if wanted else ""
    for kind in ANNOTATION_TYPES:
        named = [topic for topic in _filled(bag, kind) if _TRUTH.search(topic.lower())]
        if len(named) > 1:
            raise BagError(
                f"{bag.path} has several topics of annotations: {', '.join(named)}; name one with annotation_topic"
            )
        if named:
            return named[0]
    return ""


def _filled(bag: Bag, kind: str) -> Sequence[str]:
    return [topic for topic, found in sorted(bag.topics.items()) if found == kind and bag.counts.get(topic)]


def _kinds() -> str:
    return f"{VISION_ARRAY}, {DETECTIONS_TYPE}, {MARKERS_TYPE} and Autoware's {', '.join(AUTOWARE_KINDS)}"


def _listed(bag: Bag) -> str:
    names = sorted(bag.topics)
    return ", ".join(names[:_MAX_NAMED]) + (f" and {len(names) - _MAX_NAMED} more" if names[_MAX_NAMED:] else "")

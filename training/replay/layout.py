"""Names of topics: of our bags, of bags that other tools write, and of the node that they are played to."""

import importlib.util

from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, LAYOUTS, NODE_NAME, RAW_IMAGE, TopicLayout

__all__ = [
    "COMPRESSED_IMAGE",
    "DETECTIONS_TOPIC",
    "LAYOUTS",
    "NODE_NAME",
    "OVERLAY_TOPIC",
    "RAW_IMAGE",
    "STATUS_TOPIC",
    "TopicLayout",
    "has_tf",
    "layout_named",
    "transform_routes",
]

DETECTIONS_TOPIC = f"{NODE_NAME}/output/detections"
OVERLAY_TOPIC = f"{NODE_NAME}/output/overlay/compressed"
STATUS_TOPIC = f"{NODE_NAME}/debug/pipeline_status"


def layout_named(name: str) -> TopicLayout:
    """One of `LAYOUTS`; an unknown name is a ValueError that lists them."""
    if name not in LAYOUTS:
        raise ValueError(f"bag layout '{name}' is not known; choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def has_tf() -> bool:
    """Whether the messages of tf2 are installed, so that transforms can be played."""
    return importlib.util.find_spec("tf2_msgs") is not None


def transform_routes() -> dict[str, str]:
    """Routes of the transforms, where they can be played."""
    topics = ("/tf_static", "/tf") if has_tf() else ()
    return {topic: topic for topic in topics}

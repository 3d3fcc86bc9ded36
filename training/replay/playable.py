"""Whether a bag can be played: what the node would wait for in vain is said before it starts."""

from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, RAW_IMAGE
from training.bag.read_bag import Bag, BagError
from training.bag.rig import check_calibrated
from training.bag.write_bag import SAMPLE_TOPIC
from training.replay.config import Setup

SUGGEST = "`bevdistill doctor --bag PATH --suggest topics.yaml` writes a topic map for --layout"


def check_playable(setup: Setup, bag: Bag) -> None:
    """Raise BagError for what the node would wait for in vain."""
    if not bag.counts.get(setup.reference_topic):
        raise BagError(
            f"{bag.path} has no images of {setup.reference_camera}, the reference camera: "
            f"{setup.reference_topic} is missing or empty; it has {', '.join(bag.topics)}; {SUGGEST}"
        )
    for camera in setup.cameras:
        topic = setup.layout.image_topic(camera)
        if bag.topics.get(topic) in (COMPRESSED_IMAGE, RAW_IMAGE) and bag.topics[topic] != setup.layout.image_type:
            raise BagError(
                f"{bag.path}: {topic} holds {bag.topics[topic]}, but the topic map says {setup.layout.image_type}; "
                "correct its image_type"
            )
    if not setup.has_intrinsics:
        cameras_info = "rig_file" in setup.config.parameters
        check_calibrated(bag, setup.layout, setup.cameras, has_mountings=cameras_info)
    first = bag.first(setup.reference_topic)
    if first is not None and first.stamp_ns == 0:
        raise BagError(
            f"{bag.path}: the stamps in the headers of {setup.reference_topic} are 0, so it is unknown which images "
            "belong together; let the driver fill header.stamp, and record again"
        )
    if setup.config.frames == "key" and not bag.counts.get(SAMPLE_TOPIC) and not setup.config.split:
        raise BagError(f"{bag.path} has no {SAMPLE_TOPIC}, so its key frames are not known; set frames to all")

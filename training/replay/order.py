"""The messages of a bag in the order to play them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, RAW_IMAGE, TopicMap
from training.replay.read_bag import Bag, BagMessage, BagSample

_RANKS = {COMPRESSED_IMAGE: 2, RAW_IMAGE: 2, "sensor_msgs/msg/CameraInfo": 1}  # everything else goes first


def stream(
    bag: Bag,
    topics: Collection[str],
    layout: TopicMap,
    cameras: Sequence[str],
    samples: Sequence[BagSample] | None = None,
) -> Iterator[BagMessage]:
    """Messages in the order to play: as received, and of one time poses, then calibrations, then images.

    What a late subscriber would still get on the vehicle goes first, wherever the bag has it: fixed transforms, and a
    calibration that was sent once.

    Args:
        bag: The bag.
        topics: Topics to play.
        layout: Where the bag keeps its topics.
        cameras: Names of the cameras.
        samples: Keep of the cameras only these key frames; None keeps all.
    """
    wanted: dict[str, set[int]] = {}
    once = {layout.camera_info_topic(camera) for camera in cameras if _is_sent_once(bag, layout, camera)}
    if samples is not None:
        for camera in cameras:
            stamps = {sample.channel_stamps_ns[camera] for sample in samples if camera in sample.channel_stamps_ns}
            wanted[layout.image_topic(camera)] = wanted[layout.camera_info_topic(camera)] = stamps
    first = {layout.tf_static, *once} & set(topics)
    if first & set(bag.topics):
        yield from (replace(message, received_ns=bag.start_ns) for message in bag.messages(first))
    for _, group in groupby(bag.messages(set(topics) - first), key=lambda message: message.received_ns):
        for message in sorted(group, key=lambda message: _RANKS.get(message.message_type, 0)):
            if message.topic not in wanted or message.stamp_ns in wanted[message.topic]:
                yield message


def _is_sent_once(bag: Bag, layout: TopicMap, camera: str) -> bool:
    """Whether a camera's calibration lies in the bag once for many images, as latched topics do."""
    return bag.counts.get(layout.camera_info_topic(camera)) == 1 < bag.counts.get(layout.image_topic(camera), 0)

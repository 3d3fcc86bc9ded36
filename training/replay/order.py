"""The messages of a bag in the order to play them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np

from bevdistill_ros.interface.topic_guess import ODOMETRY
from bevdistill_ros.interface.topics import COMPRESSED_IMAGE, RAW_IMAGE, TopicMap
from training.bag import messages
from training.bag.damage import Damage
from training.bag.read_bag import Bag, BagMessage, BagSample
from training.bag.write_bag import BASE_FRAME

ODOMETRY_FROM_TF = "/tf as odometry"  # stands for a topic that the bag does not have
_RANKS = {COMPRESSED_IMAGE: 2, RAW_IMAGE: 2, "sensor_msgs/msg/CameraInfo": 1}  # everything else goes first


def stream(
    bag: Bag,
    topics: Collection[str],
    layout: TopicMap,
    cameras: Sequence[str],
    samples: Sequence[BagSample] | None = None,
    *,
    base_frame: str = BASE_FRAME,
    damage: Damage | None = None,
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
        base_frame: Frame of the vehicle, whose pose `ODOMETRY_FROM_TF` takes from /tf.
        damage: Counts damaged messages of /tf that a pose was to be taken from.
    """
    damage = damage or Damage()
    wanted: dict[str, set[int]] = {}
    once = {layout.camera_info_topic(camera) for camera in cameras if _is_sent_once(bag, layout, camera)}
    if samples is not None:
        for camera in cameras:
            stamps = {sample.channel_stamps_ns[camera] for sample in samples if camera in sample.channel_stamps_ns}
            wanted[layout.image_topic(camera)] = wanted[layout.camera_info_topic(camera)] = stamps
    derives = ODOMETRY_FROM_TF in topics
    first = {layout.tf_static, *once} & set(topics)
    if first & set(bag.topics):
        yield from (replace(message, received_ns=bag.start_ns) for message in bag.messages(first))
    rest = (set(topics) - first) | ({layout.tf} if derives else set())
    for _, group in groupby(bag.messages(rest), key=lambda message: message.received_ns):
        for message in sorted(group, key=lambda message: _RANKS.get(message.message_type, 0)):
            if derives and message.topic == layout.tf:
                poses: list[BagMessage] | None = None
                with damage.counted(message.topic):
                    poses = list(odometry_from(message, base_frame))
                if poses is None:
                    continue
                yield from poses
            if message.topic in topics and (message.topic not in wanted or message.stamp_ns in wanted[message.topic]):
                yield message


def decodable(played: Iterable[BagMessage], damage: Damage) -> Iterator[BagMessage]:
    """All messages but those that rosbags cannot decode."""
    store = messages.standard_types()
    for message in played:
        found: list[BagMessage] = []
        with damage.counted(message.topic):
            store.deserialize_cdr(message.data, message.message_type)
            found.append(message)
        yield from found


def odometry_from(message: BagMessage, base_frame: str) -> Iterator[BagMessage]:
    """The pose of the vehicle out of a TFMessage, as an odometry at the same time; none where the message has none."""
    content: Any = messages.standard_types().deserialize_cdr(message.data, message.message_type)
    for entry in content.transforms:
        if entry.child_frame_id.lstrip("/") != base_frame:
            continue
        stamp_ns = messages.stamp_of(entry)
        odometry = messages.odometry(
            stamp_ns,
            parent=entry.header.frame_id.lstrip("/"),
            child=base_frame,
            pose=messages.matrix_of(entry.transform.translation, entry.transform.rotation),
            linear=np.zeros(3),
            angular=np.zeros(3),
        )
        data = messages.serialize(odometry, ODOMETRY)
        yield replace(message, topic=ODOMETRY_FROM_TF, message_type=ODOMETRY, stamp_ns=stamp_ns, data=data)


def _is_sent_once(bag: Bag, layout: TopicMap, camera: str) -> bool:
    """Whether a camera's calibration lies in the bag once for many images, as latched topics do."""
    return bag.counts.get(layout.camera_info_topic(camera)) == 1 < bag.counts.get(layout.image_topic(camera), 0)

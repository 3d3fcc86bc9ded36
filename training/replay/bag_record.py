"""A recording as the doctor's checks take it: streams, calibrations and pictures, as the node reads them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message

from bevdistill_ros.doctor.live.recording import Track, calibration_record, image_record, odometry_record
from bevdistill_ros.doctor.records import Recording, Topic
from bevdistill_ros.interface.topics import TopicMap
from training.bag.read_bag import Bag, BagMessage
from training.replay.message_classes import message_class

OTHER_CLOCK_S = 10.0  # the recorder's clock is not that of the headers
_PICTURE_AT = 0.5  # of a camera's images: the first ones are often dark


def record_of(bag: Bag, topics: TopicMap, cameras: Sequence[str], *, rectified: bool, base_frame: str) -> Recording:
    """Read a bag once; times of receipt are by the clock of the headers.

    Args:
        bag: The bag.
        topics: Where it keeps its topics.
        cameras: Cameras to look at.
        rectified: Whether the images are rectified.
        base_frame: Frame of the vehicle.

    Raises:
        BagError: The bag is damaged.
    """
    images = {camera: _track(bag, topics.image_topic(camera)) for camera in cameras}
    infos = {camera: _track(bag, topics.camera_info_topic(camera)) for camera in cameras}
    odometry = _track(bag, topics.odometry)
    tracks = {track.topic.name: track for track in (*images.values(), *infos.values(), odometry) if track.topic.types}
    kept: dict[str, BagMessage] = {}
    if tracks:
        for message in bag.messages(tracks):
            track = tracks[message.topic]
            track.stamps_ns.append(message.stamp_ns)
            track.arrivals_ns.append(message.received_ns)
            track.num_bytes += len(message.data)
            if len(track.stamps_ns) <= max(1, round(_PICTURE_AT * bag.counts[message.topic])):
                kept[message.topic] = message
    ahead_ns = recorder_ahead_ns([track for track in images.values() if track.stamps_ns])
    for topic, track in tracks.items():
        track.arrivals_ns = [arrival - ahead_ns for arrival in track.arrivals_ns]
        if topic in kept:
            track.last = _message(kept[topic])
    return Recording(
        images={camera: image_record(track) for camera, track in images.items()},
        calibrations={
            camera: calibration_record(track, rectified=rectified, image_topic=topics.image_topic(camera))
            for camera, track in infos.items()
        },
        odometry=odometry_record(odometry, base_frame=base_frame),
        sim_time=False,
    )


def recorder_ahead_ns(tracks: Sequence[Track]) -> int:
    """What the recorder's clock is ahead of that of most headers [ns]; 0 where they are the same."""
    offsets = [int(np.median(np.array(track.arrivals_ns) - np.array(track.stamps_ns))) for track in tracks]
    middle = int(np.median(offsets)) if offsets else 0
    return middle if abs(middle) > OTHER_CLOCK_S * 1e9 else 0


def _track(bag: Bag, topic: str) -> Track:
    types = (bag.topics[topic],) if bag.counts.get(topic) else ()
    return Track(topic=Topic(name=topic, types=types))


def _message(message: BagMessage) -> Any:
    """The message as ROS has it; None where it cannot be read, or is of a type that the node does not take."""
    try:
        return deserialize_message(message.data, message_class(message.message_type))
    except (ValueError, RuntimeError):
        return None

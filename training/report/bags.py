"""Where a frame lies in a bag: how many seconds after its start, to play it from there."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from training.bag.read_bag import Bag, read_bag
from training.bag.write_bag import SAMPLE_TOPIC
from training.page.html import command
from training.score.read import Report

_LEAD = 2.0  # [s] that a bag is played from before the frame
_NEAR_NS = 100_000_000  # a message this near to a frame's stamp lies where it lies
_STAMPED = (  # small ones first
    *("sensor_msgs/msg/CameraInfo", "nav_msgs/msg/Odometry"),
    *("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A frame in a bag."""

    bag: Path
    offset_s: float  # after the bag's start
    recorded_ns: int  # by the clock of the recorder

    def html(self) -> str:
        """Its time, and the command that plays it."""
        clock = datetime.fromtimestamp(self.recorded_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        start = max(self.offset_s - _LEAD, 0.0)
        play = f"ros2 bag play {shlex.quote(str(self.bag))} --start-offset {start:.2f}"
        return (
            f'<p class="dim">In the bag {self.offset_s:.2f} s after its start; in Foxglove seek to {clock} UTC '
            f"({self.recorded_ns / 1e9:.3f} s). Play it from {_LEAD:g} s before:</p>{command(play)}"
        )


def places_of(paths: Sequence[Path], report: Report) -> dict[str, Place]:
    """Places of a report's frames by token, of those that are in one of the bags.

    Raises:
        ValueError: A bag can't be read.
    """
    places: dict[str, Place] = {}
    for path in paths:
        bag = read_bag(path)
        places |= _by_sample(bag) if SAMPLE_TOPIC in bag.topics else _by_stamp(bag, report)
    return places


def _place(bag: Bag, received_ns: int) -> Place:
    return Place(bag=bag.path.absolute(), offset_s=(received_ns - bag.start_ns) / 1e9, recorded_ns=received_ns)


def _by_sample(bag: Bag) -> dict[str, Place]:
    """Frames of a bag that `bevdistill` wrote, which names them."""
    found = bag.decoded(
        SAMPLE_TOPIC, "std_msgs/msg/String", lambda content: str(json.loads(content.data)["sample_token"])
    )
    return {token: _place(bag, received_ns) for received_ns, token in found}


def _by_stamp(bag: Bag, report: Report) -> dict[str, Place]:
    """Frames whose stamp some message of a bag has nearly."""
    topics = sorted((_STAMPED.index(kind), topic) for topic, kind in bag.topics.items() if kind in _STAMPED)
    if not topics:
        return {}
    found = np.array([(message.stamp_ns, message.received_ns) for message in bag.messages([topics[0][1]])])
    found = found[np.argsort(found[:, 0])] if len(found) else found.reshape(0, 2)
    places = {}
    for token, stamp_us in zip(report.frames["token"], report.frames["stamp_us"], strict=True):
        distances = np.abs(found[:, 0] - int(stamp_us) * 1000)
        if len(distances) and distances.min() <= _NEAR_NS:
            places[str(token)] = _place(bag, int(found[distances.argmin(), 1]))
    return places

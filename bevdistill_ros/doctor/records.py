"""What the checks look at: what came on the topics of a vehicle, live or out of a recording."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bevdistill_ros.doctor.streams import Stream
from bevdistill_ros.node.rig.calibration import Calibration


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A topic that the node takes."""

    name: str
    types: tuple[str, ...] = ()  # that it is published under; empty: nobody publishes it
    unheard: str = ""  # why the node hears nothing of it all the same, in words: quality of service
    unheard_by: str = ""  # the publisher


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """Images of one camera."""

    topic: Topic
    stream: Stream
    kind: str = ""  # encoding or format
    frame_id: str = ""
    picture: np.ndarray | str | None = None  # the last image (h, w, 3) uint8 RGB, or what is wrong with it; None: none
    doubt: str = ""  # what to say of an image that can be used


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationRecord:
    """camera_info of one camera."""

    topic: Topic
    stream: Stream
    calibration: Calibration | str | None = None  # the last one, or why it cannot be used; None: none came


@dataclass(frozen=True, kw_only=True, eq=False)
class OdometryRecord:
    """Odometry."""

    topic: Topic
    stream: Stream
    frames: str = ""  # parent and child, such as "odom <- base_link"
    fault: str = ""  # why the last message cannot be used


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Everything that came."""

    images: Mapping[str, ImageRecord]  # by camera
    calibrations: Mapping[str, CalibrationRecord]  # by camera
    odometry: OdometryRecord
    sim_time: bool  # whether the clock is that of /clock
    node_sim_time: bool | None = None  # whether the running node takes it from there; None: none runs

    @property
    def image_bytes(self) -> float:
        """Size of the largest camera's images; 0 where none came."""
        return max((record.stream.bytes_mean for record in self.images.values()), default=0.0)

    @property
    def has_images(self) -> bool:
        """Whether any camera sent an image."""
        return any(record.picture is not None for record in self.images.values())

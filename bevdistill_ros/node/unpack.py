"""Messages to plain data: the only file that reads their fields. It needs no ROS.

What counts are the names of the fields, so messages of a bag that rosbags has read are as good as those of rclpy.
Messages hold quaternions x-y-z-w, everything else here w-x-y-z.
"""

from typing import Any

import numpy as np

from bevdistill_ros.core.geometry import transform_from
from bevdistill_ros.core.image_size import MAX_PIXELS, check_image_size
from bevdistill_ros.core.text import MAX_QUOTED, quote
from bevdistill_ros.inference.decode import image_size
from bevdistill_ros.node.images import colours_lost, compressed_image, raw_image, with_cv_bridge
from bevdistill_ros.node.rig.calibration import Calibration
from bevdistill_ros.node.rig.camera_info import CameraInfoMatrices, read_calibration
from bevdistill_ros.node.rig.odometry import StampedPose


def stamp_of(message: Any) -> int:
    """Stamp of a message with a header [ns]."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def frame_of(message: Any) -> str:
    """Frame of a message with a header, without the leading slash of ROS 1, which tf2 refuses."""
    return plain_frame(message.header.frame_id)


def plain_frame(name: str) -> str:
    """A frame as tf2 names it."""
    return name.lstrip("/")


def image_size_of(message: Any) -> tuple[int, int]:
    """Height and width [px] that an Image or CompressedImage states, before anything is decoded.

    Raises:
        ValueError: A compressed image does not state its size.
    """
    if _is_compressed(message):
        return image_size(bytes(message.data))
    return int(message.height), int(message.width)


def image_of(message: Any, *, nominal_width: int, width: int, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Pixels (h, w, 3) uint8 RGB of an Image or CompressedImage.

    Args:
        message: The message; rgb8 is not copied.
        nominal_width: Columns of the whole image [px].
        width: Columns that are needed in the end [px]; a much larger compressed image is decoded at a reduced size.
        max_pixels: Pixels that the whole image may have.

    Raises:
        ValueError: The image is damaged, too large, or of a format or encoding that is not supported.
    """
    if _is_compressed(message):
        return compressed_image(
            bytes(message.data),
            form=message.format,
            nominal_width=nominal_width,
            width=width,
            max_pixels=max_pixels,
        )
    check_image_size(int(message.height), int(message.width), max_pixels=max_pixels)
    pixels = raw_image(
        message.data, rows=message.height, cols=message.width, step=message.step, encoding=message.encoding
    )
    return with_cv_bridge(message, message.encoding) if pixels is None else pixels


def loses_colours(message: Any) -> str:
    """What to say of an image that came in colours and was compressed as grey; empty of any other."""
    if not _is_compressed(message) or not colours_lost(message.format):
        return ""
    return f"format {quote(message.format)}: its colours were dropped before it was compressed; publish rgb8 or bgr8"


def calibration_of(
    message: Any, *, rectified: bool, image_topic: str = "", max_pixels: int = MAX_PIXELS
) -> Calibration:
    """Intrinsics from a CameraInfo.

    Args:
        message: The CameraInfo.
        rectified: Whether the images are rectified, so that P holds and no distortion is left.
        image_topic: Topic of its images, whose name may say that they are rectified.
        max_pixels: Pixels that the images may have.

    Raises:
        ValueError: The camera is not calibrated, or its calibration is not usable.
    """
    size = (int(message.height), int(message.width))
    if min(size) > 0:
        check_image_size(*size, max_pixels=max_pixels)
    if len(frame_of(message)) > MAX_QUOTED:
        raise ValueError(f"the frame's name has {len(frame_of(message))} characters, so it cannot be right")
    roi = message.roi
    if (roi.height, roi.width) not in ((0, 0), size):
        raise ValueError(f"a region of interest ({roi.width}x{roi.height} of {size[1]}x{size[0]}) is not supported")
    given = CameraInfoMatrices(
        k=np.array(message.k, dtype=np.float64).reshape(3, 3),
        p=np.array(message.p, dtype=np.float64).reshape(3, 4)[:, :3],
        d=np.array(message.d, dtype=np.float64),
        model=message.distortion_model,
    )
    return read_calibration(given, size=size, frame_id=frame_of(message), rectified=rectified, image_topic=image_topic)


def odometry_of(message: Any, *, base_frame: str) -> StampedPose:
    """Where the vehicle was, from an Odometry.

    Raises:
        ValueError: It is the pose of another frame, or not a pose.
    """
    child = plain_frame(message.child_frame_id)
    if child and child != base_frame:
        raise ValueError(f"odometry is that of frame {quote(child)}, but base_frame is '{base_frame}'")
    pose = message.pose.pose
    translation = np.array([pose.position.x, pose.position.y, pose.position.z])
    if not np.isfinite(translation).all():
        raise ValueError(f"odometry is not finite: position {translation.tolist()}")
    odom_from_ego = transform_from(_quaternion_of(pose.orientation), translation)
    return StampedPose(stamp_ns=stamp_of(message), odom_from_ego=odom_from_ego, twist=_twist_of(message.twist.twist))


def _twist_of(message: Any) -> np.ndarray | None:
    """Twist (6,); None where it is zero, which most who do not know it send, or not finite."""
    linear, angular = message.linear, message.angular
    twist = np.array([linear.x, linear.y, linear.z, angular.x, angular.y, angular.z])
    return twist if np.isfinite(twist).all() and twist.any() else None


def transform_of(message: Any) -> np.ndarray:
    """Transform (4, 4) target_from_source [m] of a TransformStamped as tf2's lookup returns it."""
    translation = message.transform.translation
    return transform_from(
        _quaternion_of(message.transform.rotation), np.array([translation.x, translation.y, translation.z])
    )


def _quaternion_of(message: Any) -> np.ndarray:
    return np.array([message.w, message.x, message.y, message.z])


def _is_compressed(message: Any) -> bool:
    """Whether an image message is a CompressedImage, which alone has a format; an Image has an encoding."""
    return hasattr(message, "format")

"""The one place that imports tf2; without it a rig file and odometry serve."""

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time

from bevdistill_ros.node.unpack import transform_of

try:
    import tf2_ros

    HAS_TF2 = True
except ModuleNotFoundError:
    HAS_TF2 = False


class Transforms:
    """The tf buffer, filled by the node's executor.

    Args:
        node: The node that listens.

    Raises:
        ValueError: tf2_ros is not installed.
    """

    def __init__(self, node: Node) -> None:
        if not HAS_TF2:
            raise ValueError(
                "tf needs the ROS package tf2_ros, which is not installed; "
                "install it, or set rig_file, and ego_motion.source to odometry or none"
            )
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Transform (4, 4) target_from_source [m] at a stamp.

        Raises:
            ValueError: tf does not know it.
        """
        try:
            return transform_of(self._buffer.lookup_transform(target, source, Time(nanoseconds=stamp_ns)))
        except tf2_ros.TransformException as error:
            raise ValueError(f"tf does not know {target} <- {source}: {' '.join(str(error).split())}") from error

    def wait_for(self, target: str, source: str, stamp_ns: int, timeout_s: float) -> bool:
        """Wait until tf knows a transform at a stamp; False where it does not within the time."""
        timeout = Duration(seconds=timeout_s)
        return bool(self._buffer.can_transform(target, source, Time(nanoseconds=stamp_ns), timeout=timeout))

    def clear(self) -> None:
        """Forget what moves; after the clock was set back it would be wrong."""
        self._buffer.clear()

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

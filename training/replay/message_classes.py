"""The ROS message classes that a replay publishes or records.

The classes are fixed here: a message type that a bag names selects one of them and is never imported by its name, which
would run any package of that name that lies in the working folder.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bevdistill_ros.msg import Detection3DArray, PipelineStatus
from nav_msgs.msg import Odometry
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.core.text import quote

try:
    from tf2_msgs.msg import TFMessage
except ModuleNotFoundError:  # not among the wheels
    TFMessage = None

_CLASSES: Mapping[str, Any] = MappingProxyType(
    {
        "bevdistill_ros/msg/Detection3DArray": Detection3DArray,
        "bevdistill_ros/msg/PipelineStatus": PipelineStatus,
        "nav_msgs/msg/Odometry": Odometry,
        "rosgraph_msgs/msg/Clock": Clock,
        "sensor_msgs/msg/CameraInfo": CameraInfo,
        "sensor_msgs/msg/CompressedImage": CompressedImage,
        "sensor_msgs/msg/Image": Image,
        **({"tf2_msgs/msg/TFMessage": TFMessage} if TFMessage is not None else {}),
    }
)


def message_class(message_type: str) -> Any:
    """Class of a message type such as sensor_msgs/msg/Image.

    Raises:
        ValueError: A replay neither publishes nor records messages of this type.
    """
    if message_type not in _CLASSES:
        raise ValueError(f"message type {quote(message_type)} cannot be played; these can: {', '.join(_CLASSES)}")
    return _CLASSES[message_type]

"""Small bags for tests that damage them."""

from pathlib import Path

import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from training.bag import messages

STRING = "std_msgs/msg/String"
SAMPLE = "/nuscenes/sample"


def small_bag(path: Path, storage: StoragePlugin = StoragePlugin.MCAP, *, num: int = 6, packed: bool = False) -> Path:
    """Texts, odometry and calibrations of one camera, two seconds apart."""
    store = messages.standard_types()
    odometry, info = "nav_msgs/msg/Odometry", "sensor_msgs/msg/CameraInfo"
    writer = Writer(path, version=8, storage_plugin=storage)
    if packed:
        writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        topics = {
            name: writer.add_connection(name, kind, typestore=store, offered_qos_profiles=[messages.quality(depth=1)])
            for name, kind in ((SAMPLE, STRING), ("/odom", odometry), ("/CAM_FRONT/camera_info", info))
        }
        for index in range(num):
            stamp_ns = 1_000_000_000 * (1 + 2 * index)
            pose = np.eye(4)
            pose[0, 3] = index
            sample = {
                "scene": "s",
                "sample_token": f"token{index}",
                "stamp_ns": stamp_ns,
                "channel_stamps_ns": {"CAM_FRONT": stamp_ns},
                "global_from_map": {"rotation": [1.0, 0.0, 0.0, 0.0], "translation": [0.0, 0.0, 0.0]},
            }
            moved = messages.odometry(
                stamp_ns, parent="map", child="base_link", pose=pose, linear=np.zeros(3), angular=np.zeros(3)
            )
            camera = messages.camera_info(stamp_ns, "CAM_FRONT", np.diag([50.0, 50.0, 1.0]), (10, 20))
            writer.write(topics[SAMPLE], stamp_ns, messages.serialize(messages.json_string(sample), STRING))
            writer.write(topics["/odom"], stamp_ns, messages.serialize(moved, odometry))
            writer.write(topics["/CAM_FRONT/camera_info"], stamp_ns, messages.serialize(camera, info))
    return path


def storage_file(bag: Path) -> Path:
    return next(path for path in bag.iterdir() if path.suffix in (".mcap", ".db3"))

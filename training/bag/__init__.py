"""ROS 2 bags without ROS: reading, writing, their topics, their rig and their key frames."""

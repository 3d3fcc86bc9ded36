"""The ROS 2 node."""

from bevdistill_ros import wait_as_in_the_node

wait_as_in_the_node()

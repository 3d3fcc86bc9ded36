"""What the outside must know of the node, without ROS: parameters, topics, transport."""

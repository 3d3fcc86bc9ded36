"""The ROS 2 node."""

import os

from bevdistill_ros import SPIN_COUNT

# A vehicle's computer has other work: threads that spin would take the cores from decoding and the middleware.
if os.environ["GOMP_SPINCOUNT"] == SPIN_COUNT:  # not what the user set
    os.environ["GOMP_SPINCOUNT"] = "0"

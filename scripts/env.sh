# Source this file: `source scripts/env.sh` (bash or zsh). It selects the Python environment and the ROS 2 build of
# `make setup`, and the Fast DDS profile without which bursts of images are lost.

BEVDISTILL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")/.." && pwd)"

case ":$PATH:" in
  *":$BEVDISTILL_ROOT/.venv/bin:"*) ;;
  *) export PATH="$BEVDISTILL_ROOT/.venv/bin:$PATH" ;;
esac

# Without a ROS 2 distribution the environment's own prefix, filled from the ros-* wheels, is the ROS installation.
if [ -d "$BEVDISTILL_ROOT/.venv/share/rclpy" ]; then
  export AMENT_PREFIX_PATH="$BEVDISTILL_ROOT/.venv"
  export CMAKE_PREFIX_PATH="$BEVDISTILL_ROOT/.venv"
  # The wheels extend LD_LIBRARY_PATH at Python's start, unless this says that an outer process did.
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi

if [ -f "$BEVDISTILL_ROOT/.ros/install/local_setup.sh" ]; then
  COLCON_CURRENT_PREFIX="$BEVDISTILL_ROOT/.ros/install" . "$BEVDISTILL_ROOT/.ros/install/local_setup.sh"
fi

# The source tree first, so that an edit counts without a rebuild.
export PYTHONPATH="$BEVDISTILL_ROOT${PYTHONPATH:+:$PYTHONPATH}"
# Kilted renamed the variable, and warns about the old name.
case "${ROS_DISTRO:-kilted}" in
  humble | iron | jazzy) export FASTRTPS_DEFAULT_PROFILES_FILE="$BEVDISTILL_ROOT/config/dds/fastdds.xml" ;;
  *) export FASTDDS_DEFAULT_PROFILES_FILE="$BEVDISTILL_ROOT/config/dds/fastdds.xml" ;;
esac
export ROS_LOG_DIR="${ROS_LOG_DIR:-$BEVDISTILL_ROOT/.ros/log/node}"

#!/usr/bin/env bash
# Build the messages into .ros with colcon; called by `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $*" >&2
  exit 1
}

# The wheels' CMake targets name the include folders of the machine that built them.
point_wheels_at_this_python() {
  local python_include numpy_include
  python_include=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')
  numpy_include=$(python -c 'import numpy; print(numpy.get_include())')
  { grep -rlZ --include='*.cmake' /opt/python/ .venv/share || true; } | xargs -0 --no-run-if-empty sed -i -E \
    -e "s#/opt/python/[^/;\"]+/include/python[0-9.]+#$python_include#g" \
    -e "s#/opt/python/[^;\"]+/numpy/_core/include#$numpy_include#g"
}

mkdir -p .ros
rm -rf .ros/build .ros/install
source scripts/env.sh

if ! python -c 'import rclpy' 2>/dev/null; then
  echo "setup: no rclpy, so no ROS messages; the ROS tests will be skipped"
  exit
fi
for tool in cmake g++ colcon; do
  command -v "$tool" >/dev/null ||
    fail "$tool is missing; install it (apt install cmake g++ make; with a ROS distribution also" \
      "python3-colcon-common-extensions) and run make setup again"
done
if [ -d .venv/share/rclpy ]; then
  point_wheels_at_this_python
fi

echo "setup: building the ROS messages, ten seconds"
if ! colcon --log-base .ros/log build --base-paths . --build-base .ros/build --install-base .ros/install \
  --symlink-install --parallel-workers 2 --event-handlers console_cohesion- \
  --cmake-args -DBUILD_TESTING=OFF -DPython3_EXECUTABLE="$(command -v python)" >.ros/build.log 2>&1; then
  tail -n 40 .ros/build.log >&2
  fail "colcon build failed; the whole log is .ros/build.log"
fi

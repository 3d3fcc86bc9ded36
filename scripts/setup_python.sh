#!/usr/bin/env bash
# Create .venv and install what the project needs; called by `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "setup: $*" >&2
  exit 1
}

find_python() {
  local candidate newest=12 candidates=(python3 python3.11 python3.12)
  if [ -n "${PYTHON:-}" ]; then
    candidates=("$PYTHON")
  elif [ -n "${ROS_DISTRO:-}" ]; then
    candidates=(python3)
  fi
  [ -z "${PYTHON:-}${ROS_DISTRO:-}" ] || newest=14  # chosen for the vehicle
  for candidate in "${candidates[@]}"; do
    if "$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail "Python 3.11 to 3.$newest is needed, but none answers to ${candidates[*]};" \
    "install one (apt install python3 python3-venv) or name yours: make setup PYTHON=/path/to/python3"
}

has_ros_distribution() {
  [ -n "${ROS_DISTRO:-}" ] || { [ ! -d .venv/share/rclpy ] && "$1" -c 'import rclpy' 2>/dev/null; }
}

python=$(find_python)
requirements=(-r requirements/base.txt -r requirements/dev.txt)
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] > (3, 12))'; then
  echo "setup: without training: nuscenes-devkit needs NumPy 1, and so Python 3.11 or 3.12; make test-vehicle runs the rest"
  requirements=(-r requirements/vehicle.txt -r requirements/vehicle-dev.txt)
fi
venv_options=()
if has_ros_distribution "$python"; then
  [ ! -d .venv/share/rclpy ] ||
    fail "ROS 2 $ROS_DISTRO is sourced, but .venv holds the ROS wheels; remove .venv and .ros, then run make setup again"
  venv_options=(--system-site-packages)
elif [ "$(uname -sm)" = "Linux x86_64" ] && [ "${requirements[1]}" = requirements/base.txt ]; then
  requirements+=(-r requirements/ros.txt)
else
  echo "setup: without ROS: no distribution is sourced, and the ROS wheels are for Linux x86_64 and Python 3.11 or 3.12 only"
fi

if [ ! -x .venv/bin/python ]; then
  echo "setup: creating .venv with $("$python" --version)"
  "$python" -m venv "${venv_options[@]}" .venv ||
    fail "could not create .venv; install the venv module (apt install python3-venv) and run make setup again"
fi
if ! .venv/bin/python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
  requirements+=(-r requirements/torch.txt)
fi

echo "setup: installing packages, one to three minutes the first time"
# Compiling every file of every package would nearly double the time; Python compiles what it imports.
.venv/bin/python -m pip install -qq --no-compile --prefer-binary --disable-pip-version-check "${requirements[@]}" ||
  fail "pip could not install the requirements; see its message above, then run make setup again"
.venv/bin/python -m pip install -qq --no-compile --no-deps --no-build-isolation --disable-pip-version-check -e .

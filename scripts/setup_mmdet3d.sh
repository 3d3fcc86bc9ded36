#!/usr/bin/env bash
# Add mmdet3d to .venv, for LiDAR teachers from the field; called by `make setup-mmdet3d`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
pip=("$python" -m pip install -qq --disable-pip-version-check --prefer-binary)
cuda=$("$python" -c 'import torch; print(int(torch.cuda.is_available()))')

# mmdet3d's own requirements would bring OpenCV 5 and NumPy 2, which nuscenes-devkit and cv_bridge can't work with, and
# several hundred megabytes for viewers and data sets; so they are left out, and what its detectors import is listed.
requirements=(-r requirements/base.txt -r requirements/mmdet3d.txt)
if [ "$cuda" = 0 ]; then
  requirements+=(spconv==2.3.8)  # mmcv's own sparse convolutions, for voxels, are for CUDA only; this build is for CPUs
fi
"${pip[@]}" "${requirements[@]}"

if ! "$python" -c 'import mmcv.ops' 2>/dev/null; then
  echo "setup: compiling mmcv, about 12 minutes on two cores the first time; pip keeps the result in its cache"
  "${pip[@]}" ninja psutil
  MMCV_WITH_OPS=1 FORCE_CUDA="$cuda" PATH="$PWD/.venv/bin:$PATH" \
    "${pip[@]}" --no-deps --no-build-isolation mmcv==2.1.0
fi
"${pip[@]}" --no-deps mmengine==0.10.7 mmdet==3.3.0 mmdet3d==1.4.0
"$python" -W ignore -c 'import mmcv.ops, mmdet3d.models; print("setup: mmdet3d", mmdet3d.__version__, "is ready")'

#!/usr/bin/env bash
# Install mmdet3d for LiDAR teachers from the field; called by `make setup-mmdet3d`.
set -euo pipefail
cd "$(dirname "$0")/.."

echo "setup: compiling mmcv, about 12 minutes on two cores the first time; pip keeps the result in its cache"
.venv/bin/python -m pip install -q ninja psutil
cuda=$(.venv/bin/python -c 'import torch; print(int(torch.cuda.is_available()))')
MMCV_WITH_OPS=1 FORCE_CUDA="$cuda" PATH="$PWD/.venv/bin:$PATH" \
  .venv/bin/python -m pip install --no-build-isolation mmcv==2.1.0
.venv/bin/python -m pip install -q --no-build-isolation mmengine==0.10.7 mmdet==3.3.0 mmdet3d==1.4.0
.venv/bin/python -c 'import mmdet3d; print("setup: mmdet3d", mmdet3d.__version__, "is ready")'

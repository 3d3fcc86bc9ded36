#!/usr/bin/env bash
# Trains the weights in config/weights again, all with the same data, and scores them on scenes that none has seen: some
# hours on two cores. Stopped, it goes on where it was.
#   scripts/make_weights.sh [folder of the world] [folder of the runs]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/env.sh
source scripts/env.sh
world=${1:-data/synth}
runs=${2:-runs}
weights=config/weights

if [ ! -d "$world" ]; then
  bevdistill synth --root "$world" --num_train_scenes 44 --num_tune_scenes 4 --num_val_scenes 24
fi

# keep NAME RUN ARGS...: train in a folder of the runs, and keep the weights under a name
keep() {
  local name=$1 run=$2
  shift 2
  bevdistill train --data.root "$world" --run.output "$runs/$run" --run.resume true "$@"
  python -c 'import sys; from pathlib import Path; from training.weights.checkpoint import shrink; shrink(*map(Path, sys.argv[1:]))' \
    "$runs/$run/last.ckpt" "$weights/$name.safetensors"
}

bevdistill train --data.root "$world" --run.output "$runs/teacher_start" --run.resume true --config config/train/teacher_tiny.yaml
keep teacher teacher --config config/train/teacher_tiny.yaml --optim.steps 4000 \
  --run.initial_weights "$runs/teacher_start/last.ckpt"
keep student student_tiny --config config/train/student_tiny.yaml
keep student_bevdistill student_tiny_bevdistill --config config/train/student_tiny.yaml \
  --distill.method bevdistill_dense --distill.share 0.5 --teacher_checkpoint "$weights/teacher.safetensors"

for name in teacher student student_bevdistill; do
  for split in synth_tune synth_val; do
    bevdistill evaluate --source "$weights/$name.safetensors" --data.root "$world" --data.version v1.0-synth \
      --split "$split" --data.num_sweeps 2 --output "$runs/weights/$name/$split" | head -1 | sed "s/^/$name, /"
  done
done

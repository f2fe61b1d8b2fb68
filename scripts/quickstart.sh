#!/usr/bin/env bash
# The whole job in minutes: draws a small image tree in the layout of ILSVRC2012, then prepare → fit → evaluate → predict.
# It sets up .venv by itself, writes to data/quickstart and saved_models/quickstart, and may be run again.
set -euo pipefail
source "$(dirname "$0")/environment.sh" report

data=data/quickstart model=saved_models/quickstart
say() { printf '\n== %s\n' "$*"; }

say "Drawing images"
.venv/bin/python scripts/draw_shapes.py "$data/images"

say "Preparing: folders → map files"
.venv/bin/python -m keras_alexnet.prepare --imagenet_dir="$data/images" --output_dir="$data"

say "Training AlexNet"
.venv/bin/python -m keras_alexnet.fit --flagfile=flags/fit_quickstart.flags --data_dir="$data" --output_dir="$model" \
  --restart --report

say "Evaluating on images that were not trained on"
.venv/bin/python -m keras_alexnet.evaluate --model="$model/model.keras" --data_dir="$data"

say "Predicting what is in two of them"
.venv/bin/python -m keras_alexnet.predict --model="$model/model.keras" --top_k=2 \
  "$data"/images/Data/CLS-LOC/val/*0000000[12].JPEG

say "The model is $model/model.keras; for a look at it open $PWD/$model/report/report.html"

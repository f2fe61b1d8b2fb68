#!/usr/bin/env bash
# The whole workflow in minutes: draws a small image set in the layout of ILSVRC2012, then prepare → fit → evaluate →
# predict. Sets up .venv, writes to data/quickstart and saved_models/quickstart, and is safe to re-run.
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

say "Evaluating on images not used for training"
.venv/bin/python -m keras_alexnet.evaluate --model="$model/model.keras" --data_dir="$data"

say "Classifying two of them"
.venv/bin/python -m keras_alexnet.predict --model="$model/model.keras" --top_k=2 \
  "$data"/images/Data/CLS-LOC/val/*0000000[12].JPEG

say "The model is $model/model.keras; its report is $PWD/$model/report/report.html"

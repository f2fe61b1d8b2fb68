#!/usr/bin/env bash
# Sets up .venv and runs the tests; --all adds the slow ones and installs for them JAX, PyTorch, simplejpeg, what runs
# exported models, and what drives a browser.
# Other arguments go to pytest: scripts/test.sh -k pipeline
set -euo pipefail
arguments=("$@")
set --
if [[ ${arguments[0]:-} == --all ]]; then
  arguments=("${arguments[@]:1}")
  source "$(dirname "$0")/environment.sh" test bench browser export jax torch
else
  arguments=(-m "not slow" ${arguments[@]+"${arguments[@]}"})
  source "$(dirname "$0")/environment.sh" test
fi
# A file's tests in one process each, as they share what takes long to make.
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile ${arguments[@]+"${arguments[@]}"}

#!/usr/bin/env bash
# Sets up .venv and runs the fast tests. --all runs all tests, and installs what the slow ones need: JAX, PyTorch,
# simplejpeg, runtimes for exported models, and Playwright for browser tests.
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
# Each process gets consecutive tests, which share fixtures that are slow to build; an idle one takes over some of the
# last ones of another.
exec .venv/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal ${arguments[@]+"${arguments[@]}"}

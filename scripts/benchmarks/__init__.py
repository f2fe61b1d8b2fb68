"""The benchmarks of `scripts/benchmark.py`, one module each.

The docstring of a module is its help text. A module has `add_arguments(parser)` for options beyond the common ones
(`--json`, `--quick`, `--repeats`), the dict `QUICK` with the option values of `--quick`, and `run(options)`, which
prints the figures and returns them in the form that `--json` writes. `run` imports the frameworks.
"""

"""What `scripts/benchmark.py` measures, a module each.

A module's docstring is the help of its benchmark. It has `add_arguments(parser)`, for the options beyond those that all
have (`--json`, `--quick`, `--repeats`); `QUICK`, the options' values with `--quick`; and `run(options)`, which prints
the figures while it measures and returns them as `--json` writes them. Frameworks are imported by `run`.
"""

"""Benchmarks, run as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """`python scripts/benchmark.py ARGUMENT …`, whatever comes of it."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)


def figures_of(tmp_path: Path, *arguments: object, **environment: str) -> tuple[dict | list, str]:
    """What a benchmark writes by `--json`, and what it prints; it succeeds and leaves stderr alone."""
    process = run(*arguments, f"--json={tmp_path}/figures.json", **environment)
    assert (process.returncode, process.stderr) == (0, "")
    return json.loads((tmp_path / "figures.json").read_text()), process.stdout


def check_spread(figure: dict[str, float]) -> None:
    """A median within its range, of positive figures."""
    assert 0 < figure["min"] <= figure["median"] <= figure["max"]

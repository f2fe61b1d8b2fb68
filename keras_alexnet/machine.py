"""Facts of the machine and of the software, to stand beside every figure. No framework is imported."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from keras_alexnet.workers import cpu_count

_INSTRUCTIONS = ("avx512f", "avx512_bf16", "amx_bf16")


def processor() -> str:
    """Processor, cores, and those of its instructions that matter here."""
    model, flags = platform.processor() or platform.machine(), []
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file if ":" in line)
        facts = {key.strip(): value.strip() for key, value in facts.items()}
        model, flags = facts.get("model name", model), facts.get("flags", "").split()
    found = [name for name in _INSTRUCTIONS if name in flags]
    cores = f"{os.cpu_count()} cores"
    if cpu_count() != os.cpu_count():
        cores += f", {cpu_count()} of them used"
    return ", ".join([model, cores, *filter(None, [" ".join(found)])])


def versions(packages: tuple[str, ...] = ("keras_alexnet", "keras", "tensorflow", "jax", "torch", "numpy", "pillow")):
    """Of Python, and of those of `packages` that are installed: a dict by name."""
    found = {"Python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this package's checkout, with "+" where files of it have changed; None outside of one."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # Another project's checkout may hold the environment that this package is installed in.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None

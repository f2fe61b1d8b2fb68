"""Keeps what XLA compiles for a GPU, or finds out about it, from one process to the next. No framework is imported.

The first step on a GPU waits for XLA, which tries out algorithms for each convolution and product: 15 to 60 seconds.
JAX keeps whole programs; under TensorFlow, whose own store of programs ends a run where a file of it is damaged, XLA
keeps the algorithms that it has found. A file of ours beside them has their checksums, and what differs from these is
removed before a framework reads it.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
from pathlib import Path

from keras_alexnet.atomic import write_text
from keras_alexnet.errors import UserError
from keras_alexnet.gpu import count_gpus

_CHECKSUMS = "checksums.json"
# XLA ends a process at a flag that it does not know: these versions of TensorFlow were seen to know it.
_TENSORFLOW_VERSIONS = ("2.20.", "2.21.")
_DAY = 24 * 60 * 60  # seconds
_AUTOTUNING = "--xla_gpu_per_fusion_autotune_cache_dir"

_folder: Path | None = None


def default_folder() -> str:
    """The user's own."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "keras_alexnet", "compiled")


def start(setting: str, backend: str) -> str | None:
    """Has the framework keep compiled programs; to be called before it is imported.

    It does nothing on a machine without a GPU: programs for CPUs are compiled in seconds, and may not run on the next
    machine that shares the folder. Whatever is wrong with the folder, the run goes on without it.

    Args:
        setting: the folder, or "off".
        backend: of Keras.

    Returns:
        What to tell the user, if anything: that the folder is filled, or why it is not used.
    """
    global _folder
    if setting == "off" or not count_gpus() or backend == "torch":
        return None
    if backend == "jax" and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None  # The user's own.
    folder = Path(setting).expanduser().absolute() / backend
    if backend == "tensorflow":
        if not _tensorflow_version().startswith(_TENSORFLOW_VERSIONS):
            return None
        if len(str(folder).split()) > 1:
            return f"Compiled programs are not kept: {folder} has a blank in its name, which XLA would cut it at"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        kept = _remove_damaged(folder)
    except OSError as error:
        return f"Compiled programs are not kept: cannot write to {folder}: {error.strerror}"
    _folder = folder
    atexit.register(record)
    if backend == "jax":
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        # Weights are drawn by many small programs.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    else:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_AUTOTUNING}={folder}".strip()
    if kept:
        return None
    return f"XLA compiles for this GPU, which may take a minute; later starts find the result in {folder}"


def record() -> None:
    """Notes the checksums of what has been kept so far; without that, it is not used again."""
    if _folder is None:
        return
    with contextlib.suppress(OSError, UserError):
        write_text(_folder / _CHECKSUMS, json.dumps(_checksums(_folder), indent=1))


def _tensorflow_version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("tensorflow")
    return ""  # It was not installed by a package manager.


def _remove_damaged(folder: Path) -> int:
    """Removes the files that differ from their checksums, or have had none for a day; returns how many are left."""
    try:
        expected = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        expected = {}
    if not isinstance(expected, dict):
        expected = {}
    found = _checksums(folder)
    for name, checksum in found.items():
        path = folder / name
        # Another process may be at work, and note it at its end.
        is_new = name not in expected and time.time() - path.stat().st_mtime < _DAY
        if expected.get(name) != checksum and not is_new:
            path.unlink(missing_ok=True)
    return sum(expected.get(name) == checksum for name, checksum in found.items())


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CHECKSUMS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

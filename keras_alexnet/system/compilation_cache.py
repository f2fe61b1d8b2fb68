"""Caches XLA's compilation results for GPUs between processes. Imports no framework.

The first step on a GPU waits 15 to 60 s while XLA times algorithms for each convolution and matrix product. JAX caches
compiled programs. Under TensorFlow, XLA caches the selected algorithms only, since TensorFlow's own program cache stops
a run when one of its files is corrupted. A list of checksums next to the files detects corrupted ones, which are
removed before a framework reads them.
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

from keras_alexnet.errors import UserError
from keras_alexnet.system.atomic import write_text
from keras_alexnet.system.gpu import count_gpus

_CHECKSUMS = "checksums.json"
# XLA ends the process at an unknown flag. These versions of TensorFlow know it.
_TENSORFLOW_VERSIONS = ("2.20.", "2.21.")
_DAY = 24 * 60 * 60  # seconds
_AUTOTUNING = "--xla_gpu_per_fusion_autotune_cache_dir"

_folder: Path | None = None
_recorded: dict[str, str] = {}  # checksums by file name


def default_folder() -> str:
    """The folder in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "keras_alexnet", "compiled")


def start(setting: str, backend: str) -> str | None:
    """Enables the cache; call it before importing the framework.

    It does nothing on a machine without a GPU: CPU programs compile in seconds, and may not run on another machine that
    shares the folder. If the folder cannot be used, the run continues without a cache.

    Args:
        setting: the folder, or "off".
        backend: the Keras backend.

    Returns:
        A message for the user, or None: the cache is still empty, or why it is not used.
    """
    global _folder
    if setting == "off" or not count_gpus() or backend == "torch":
        return None
    if backend == "jax" and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None  # The user has chosen a cache.
    folder = Path(setting).absolute() / backend
    if backend == "tensorflow":
        if not _tensorflow_version().startswith(_TENSORFLOW_VERSIONS):
            return None
        if len(str(folder).split()) > 1:
            return f"The compilation cache is off: XLA does not accept a folder with a space in its name, {folder}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        kept = _remove_damaged(folder)
    except OSError as error:
        return f"The compilation cache is off: cannot write to {folder}: {error.strerror}"
    _folder = folder
    atexit.register(record)
    if backend == "jax":
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        # Many small programs initialize the weights.
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    else:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_AUTOTUNING}={folder}".strip()
    if kept:
        return None
    return f"Compiling for this GPU, which can take a minute; the result is cached in {folder}"


def record() -> None:
    """Records the checksums of the files that have been cached so far."""
    global _recorded
    if _folder is None:
        return
    with contextlib.suppress(OSError, UserError):
        # It is called after each epoch: only new files are read.
        checksums = _checksums(_folder, _recorded)
        if checksums != _recorded or not (_folder / _CHECKSUMS).exists():
            write_text(_folder / _CHECKSUMS, json.dumps(checksums, indent=1))
            _recorded = checksums


def _tensorflow_version() -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version("tensorflow")
    return ""  # Not installed by a package manager.


def _remove_damaged(folder: Path) -> int:
    """Removes files that do not match their checksums, or have had none for a day; returns how many remain."""
    try:
        expected = json.loads((folder / _CHECKSUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        expected = {}
    if not isinstance(expected, dict):
        expected = {}
    found = _checksums(folder, known={})
    for name, checksum in found.items():
        path = folder / name
        # Another process may be running, and will record it.
        is_new = name not in expected and time.time() - path.stat().st_mtime < _DAY
        if expected.get(name) != checksum and not is_new:
            path.unlink(missing_ok=True)
    return sum(expected.get(name) == checksum for name, checksum in found.items())


def _checksums(folder: Path, known: dict[str, str]) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _CHECKSUMS)
    names = {path: str(path.relative_to(folder)) for path in files}
    return {name: known.get(name) or hashlib.sha256(path.read_bytes()).hexdigest() for path, name in names.items()}

"""Facts of the machine and of the software, recorded with every figure. No framework is imported."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.system.process_pool import cpu_count

# The control groups of this process, and the files with the limit, the usage, and the name of cached files in
# memory.stat, in version 1 and 2.
_CONTROL_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
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


def total_bytes() -> int | None:
    """The memory that this process may use: the machine's, its control groups', or its own limit; None if unknown."""
    limits = []
    with contextlib.suppress(AttributeError, ImportError, OSError, ValueError):  # Windows has neither of these.
        import resource

        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        limits.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    for folder, (limit, *_) in _control_groups():
        with contextlib.suppress(OSError, ValueError):  # "max" means unlimited.
            limits.append(int((folder / limit).read_text()))
    return min((limit for limit in limits if limit > 0), default=None)  # An infinite limit is -1.


def available_bytes() -> int | None:
    """The memory that this process can still get from the machine and its control groups; None if unknown."""
    free = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        free.append({name: 1024 * int(value) for name, value, *_ in lines}["MemAvailable:"])
    for folder, (limit, usage, cached) in _control_groups():
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max" means unlimited.
            # Cached file contents are given up when memory is needed.
            counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            free.append(most - used + int(counts[cached]))
    return max(min(free), 0) if free else None


def _control_groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of the memory control groups of this process, up to the root, and the names of their files."""
    with contextlib.suppress(OSError):
        for line in _CONTROL_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "memory" not in controllers.split(","):
                continue
            root = _GROUPS / "memory" if controllers else _GROUPS
            group = root / path.lstrip("/")
            # In a container the path may be that of the host: only what exists counts.
            for folder in (group, *group.parents):
                yield folder, _V1 if controllers else _V2
                if folder == root:
                    break


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

"""How much memory it takes to read a file."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

# Reads files and prints by how many bytes the memory grew at most for each. Not by getrusage(), which also counts the
# process that started this one.
_MEASURE = """
import importlib, re, sys
from keras_alexnet.errors import UserError

def memory(kind):
    with open("/proc/self/status") as status:
        return int(re.search(rf"{kind}:\\s+(\\d+) kB", status.read())[1]) * 1024

for argument in sys.argv[1:]:
    module, function, path = argument.split("=", 2)
    read = getattr(importlib.import_module(module), function)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = memory("VmRSS")
    try:
        network = read(path)
    except UserError as error:
        assert len(str(error)) < 1000
    print(memory("VmHWM") - before)
    network = None
"""


def check_memory(readers: Mapping[Path, Callable]) -> None:
    """Checks that reading each file, by the function given for it, takes less than twice its size and 24 MiB."""
    arguments = [f"{reader.__module__}={reader.__name__}={path}" for path, reader in readers.items()]
    command = [sys.executable, "-c", _MEASURE, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for path, grown in zip(readers, map(int, result.stdout.split()), strict=True):
        assert grown < 2 * path.stat().st_size + 24 * 2**20, f"{path.name}: {grown:,} bytes"

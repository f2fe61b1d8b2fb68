"""What the commands share: parsing flags, help, telling mistakes, and a quiet start of the frameworks."""

import contextlib
import errno
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator

from absl import flags

from keras_alexnet.errors import UserError
from keras_alexnet.system import compilation_cache
from keras_alexnet.system.flagfile import expand_flagfiles
from keras_alexnet.system.keras_settings import select_backend
from keras_alexnet.system.log_suppression import stderr_held_back
from keras_alexnet.system.progress import clear_status_line, flush_or_drop, write_stderr

# What writing to stdout may fail with: no room, quota, size limit, closed terminal.
_FULL = [getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO")]


def run(
    main: Callable[[flags.FlagValues, list[str]], None],
    define_flags: Callable[[flags.FlagValues], None],
    description: str,
    arguments: str = "",
) -> None:
    """Parses the command line, calls `main(flag_values, positional_arguments)` and exits.

    Args:
        main: the command; it raises `UserError` for what the user can mend.
        define_flags: defines the command's flags on the `FlagValues` that it is given.
        description: what `--help` prints above the flags.
        arguments: what it calls the positional arguments.

    Exit status: 0 success; 1 a user error, explained on stderr in one message, or output that cannot be written;
    130 Ctrl-C. The command may exit with others itself.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # A terminal that has not every character, or a file name that is not UTF-8, must not stop the work.
        stream.reconfigure(errors="backslashreplace")
    spec = sys.modules["__main__"].__spec__
    command = f"python -m {spec.name}" if spec else sys.argv[0]
    try:
        if any(argument in ("--help", "-help", "-h") for argument in sys.argv[1:]):
            usage = f"{command} [--name=value …] {arguments}".rstrip()
            print(_help(usage, define_flags, description or ""), flush=True)
            sys.exit(0)
        _check_working_directory()
        main(*parse(define_flags, sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        clear_status_line()
        write_stderr(f"{command}: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        clear_status_line()
        write_stderr(f"{command}: interrupted\n")
        sys.exit(130)
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":
            raise
        # Python decodes some names of EUC-JP, and others, that it cannot encode again.
        clear_status_line()
        write_stderr(
            f"{command}: the name {error.object!r} cannot be used under the locale's encoding, "
            f"{sys.getfilesystemencoding()}. Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8.\n"
        )
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # The reader of the output has gone, such as `head`.
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        clear_status_line()
        write_stderr(f"{command}: cannot write the output: {error.strerror}. Make room where it goes to.\n")
        sys.exit(1)
    finally:
        # Python flushes both at its end, where a failure would replace the exit status.
        flush_or_drop(sys.stdout)
        flush_or_drop(sys.stderr)


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UserError("the working directory has been deleted. Change to another one, such as with cd ~.") from None


def parse(define_flags: Callable[[flags.FlagValues], None], arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Returns the parsed flags (`--flagfile` included) and the positional arguments; raises `UserError`."""
    values = flags.FlagValues()
    define_flags(values)
    values.set_gnu_getopt()  # Flags may follow positional arguments.
    try:
        positional = values(["command", *expand_flagfiles(arguments)])[1:]
    except flags.Error as error:
        raise UserError(f"{error}\nRun it with --help to see every flag.") from None
    return values, positional


def reject_positional(arguments: list[str]) -> None:
    """For commands that take flags only."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: settings are given as --name=value; see --help.")


def define_path(
    name: str, default: str | None, help_text: str, flag_values: flags.FlagValues, *, may_be_empty: bool = False
) -> None:
    """Defines a flag that is a path: `~` is expanded, and an empty or quoted one is an error."""
    parser = _PathParser(may_be_empty)
    flags.DEFINE(parser, name, default, help_text, flag_values, flags.ArgumentSerializer())


class _PathParser(flags.ArgumentParser):
    """Parses the values of a flag of `define_path`."""

    def __init__(self, may_be_empty: bool):
        self._may_be_empty = may_be_empty

    def parse(self, argument: str) -> str:
        if not argument and not self._may_be_empty:
            raise ValueError("the path is empty. Was it taken from a variable that is not set?")
        if len(argument) > 1 and argument[0] == argument[-1] and argument[0] in "\"'":
            raise ValueError("the path has quotation marks around it. Remove them.")
        expanded = os.path.expanduser(argument)
        if expanded.startswith("~"):
            raise ValueError(f"there is no such home folder. Write ./{argument} for a file of that name.")
        return expanded


def define_compilation_cache(flag_values: flags.FlagValues) -> None:
    """Defines the flag that `quiet_framework_start` takes."""
    define_path(
        "compilation_cache",
        compilation_cache.default_folder(),
        "Folder that caches what XLA compiles for a GPU, so that later runs start sooner; off for no cache.",
        flag_values,
    )


@contextlib.contextmanager
def quiet_framework_start(
    cache: str = "off", report_cache: Callable[[str], None] = lambda message: write_stderr(f"{message}\n")
) -> Iterator[None]:
    """Keeps the start-up chatter of the frameworks' C++ parts off the terminal; wrap the first import in it.

    TensorFlow writes to file descriptor 2 before any of its log settings count. What it wrote is shown after all if the
    import fails.

    Args:
        cache: folder of the compilation cache, or "off".
        report_cache: called with a message if the cache is still empty, or why it is not used.

    Raises:
        UserError: the Keras backend is unknown or not installed.
    """
    backend = select_backend()
    # Notebooks set it for every process, and Keras imports Matplotlib, which stops at a backend that is not installed.
    os.environ.pop("MPLBACKEND", None)
    for name in ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH"):  # They would cut `fit` and `evaluate` short.
        os.environ.pop(name, None)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if message := compilation_cache.start(cache, backend):
        report_cache(message)
    with _no_garbage_collection(), stderr_held_back():
        yield


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Puts collections off, and spares all later ones what there is at the end, which has to live on.

    Else they would go through the half a million objects of a framework's import time and again, and once more when
    Python exits: of a command's time that is a second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _help(usage: str, define_flags: Callable[[flags.FlagValues], None], description: str) -> str:
    values = flags.FlagValues()
    define_flags(values)
    lines = [f"{description.strip()}\n\nUsage: {usage}\n\nFlags:"]
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default_as_str.strip(chr(39))})"
        prefix = "[no]" if flag.boolean else ""
        lines += [f"  --{prefix}{name}{default}", f"      {flag.help}"]
    lines += [
        "  --flagfile",
        "      Read flags from this file, one --name=value per line, # for comments; the last one given wins.",
    ]
    return "\n".join(lines)

"""What the commands share: parsing flags, help, error messages, and a quiet start of the frameworks."""

import contextlib
import errno
import gc
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator

from absl import flags

from keras_alexnet import __version__
from keras_alexnet.command import Command, define_path
from keras_alexnet.command_help import help_text
from keras_alexnet.errors import SettingError, UserError
from keras_alexnet.system import compilation_cache
from keras_alexnet.system.flagfile import expand_flagfiles
from keras_alexnet.system.keras_settings import select_backend
from keras_alexnet.system.log_suppression import stderr_held_back
from keras_alexnet.system.progress import clear_status_line, columns, flush_or_drop, write_stderr

HELP = ("--help", "-help", "-h")
VERSION = "--version"
# What writing to stdout may fail with: no room, quota, size limit, closed terminal.
_FULL = [getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO")]


def run(command: Command, name: str | None = None) -> None:
    """Parses the command line, runs a command and exits.

    Args:
        command: the command.
        name: how the user called it, for messages; detected unless given.

    Exit status: 0 success; 1 a user error, explained on stderr in one message, or output that cannot be written;
    130 Ctrl-C. The command may exit with others itself.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that has not every character, or a file name that is not UTF-8, must not stop the work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if name is None:
        spec = sys.modules["__main__"].__spec__
        name = f"python -m {spec.name}" if spec else sys.argv[0]
    try:
        if any(argument in HELP for argument in sys.argv[1:]):
            print(help_text(command, name, columns(sys.stdout)), flush=True)
            sys.exit(0)
        if VERSION in sys.argv[1:]:
            print(version(), flush=True)
            sys.exit(0)
        _check_working_directory()
        command.main(*parse(command.define_flags, sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        clear_status_line()
        dashes = "--" if isinstance(error, SettingError) else ""
        write_stderr(f"{name}: {dashes}{error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        clear_status_line()
        write_stderr(f"{name}: interrupted\n")
        sys.exit(130)
    except UnicodeEncodeError as error:
        if sys.getfilesystemencoding() == "utf-8":
            raise
        # Python decodes some names of EUC-JP, and others, that it cannot encode again.
        clear_status_line()
        write_stderr(
            f"{name}: the name {error.object!r} cannot be used under the locale's encoding, "
            f"{sys.getfilesystemencoding()}. Set PYTHONUTF8=1, or a UTF-8 locale such as LC_ALL=C.UTF-8.\n"
        )
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # The reader of the output has gone, such as `head`.
    except OSError as error:
        if error.filename is not None or error.errno not in _FULL:
            raise
        clear_status_line()
        write_stderr(f"{name}: cannot write the output: {error.strerror}. Free some space there.\n")
        sys.exit(1)
    finally:
        # Python flushes both at its end, where a failure would replace the exit status.
        flush_or_drop(sys.stdout)
        flush_or_drop(sys.stderr)


def version() -> str:
    """What `--version` prints."""
    return f"keras_alexnet {__version__}"


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
        raise UserError(f"{_explained(error)}\nRun it with --help to see every flag.") from None
    return values, positional


def _explained(error: flags.Error) -> str:
    """absl's message with the flag's dashes, and without Python's own words about numbers."""
    text = str(error)
    for theirs, ours in (
        (r"Unknown command line flag '(.*?)'", r"there is no flag --\1"),
        (r"^flag --(.*?)=(.*): invalid literal for int\(\).*", r"--\1 is \2; expected a whole number."),
        (r"^flag --(.*?)=(.*): could not convert string to float.*", r"--\1 is \2; expected a number."),
    ):
        text = re.sub(theirs, ours, text)
    return text


def reject_positional(arguments: list[str]) -> None:
    """For commands that take flags only."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: settings are given as --name=value; see --help.")


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

"""What the commands share: parsing flags, help, telling mistakes, and a quiet start of the frameworks."""

import contextlib
import errno
import gc
import importlib.util
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

from absl import flags

from keras_alexnet import compilation_cache
from keras_alexnet.errors import UserError
from keras_alexnet.progress import clear_status_line, tell

_BACKENDS = ("tensorflow", "jax", "torch")


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

    Exit status: 0 success; 1 a mistake of the user's, told on stderr in one message; 130 Ctrl-C. The command may exit
    with others itself.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):
        # A terminal that has not every character, or a file name that is not UTF-8, must not stop the work.
        stream.reconfigure(errors="backslashreplace")
    spec = sys.modules["__main__"].__spec__
    command = f"python -m {spec.name}" if spec else sys.argv[0]
    try:
        if any(argument in ("--help", "-help", "-h") for argument in sys.argv[1:]):
            print(_help(f"{command} [--name=value …] {arguments}".rstrip(), define_flags, description))
            sys.exit(0)
        main(*parse(define_flags, sys.argv[1:]))
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        clear_status_line()
        tell(f"{command}: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        clear_status_line()
        tell(f"{command}: interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the output has gone, such as `head`. Python would complain once more when it flushes at its end.
        _drop_output()
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        clear_status_line()
        tell(f"{command}: cannot write the output: {error.strerror}. Make room where it goes to.\n")
        _drop_output()
        sys.exit(1)


def _drop_output() -> None:
    """What is still to be written to stdout goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def parse(define_flags: Callable[[flags.FlagValues], None], arguments: list[str]) -> tuple[flags.FlagValues, list[str]]:
    """Returns the parsed flags (`--flagfile` included) and the positional arguments; raises `UserError`."""
    values = flags.FlagValues()
    define_flags(values)
    values.set_gnu_getopt()  # Flags may follow positional arguments.
    try:
        positional = values(["command", *arguments])[1:]
    except flags.Error as error:
        raise UserError(f"{error}\nRun it with --help to see every flag.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the flagfile is no text: {error}. Give a file of --name=value lines.") from None
    return values, positional


def reject_positional(arguments: list[str]) -> None:
    """For commands that take flags only."""
    if arguments:
        raise UserError(f"unexpected argument {arguments[0]!r}: settings are given as --name=value; see --help.")


def define_compilation_cache(flag_values: flags.FlagValues) -> None:
    """Defines the flag that `quiet_framework_start` takes."""
    flags.DEFINE_string(
        "compilation_cache",
        compilation_cache.default_folder(),
        "Folder that caches what XLA compiles for a GPU, so that later runs start sooner; off for no cache.",
        flag_values=flag_values,
    )


@contextlib.contextmanager
def quiet_framework_start(
    cache: str = "off", report_cache: Callable[[str], None] = lambda message: tell(f"{message}\n")
) -> Iterator[None]:
    """Keeps the start-up chatter of the frameworks' C++ parts off the terminal; wrap the first import in it.

    TensorFlow writes to file descriptor 2 before any of its log settings count. What it wrote is shown after all if the
    import fails.

    Args:
        cache: folder of the compilation cache, or "off".
        report_cache: called with a message if the cache is still empty, or why it is not used.

    Raises:
        UserError: KERAS_BACKEND names a backend that is unknown or not installed.
    """
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in _BACKENDS:
        raise UserError(f"KERAS_BACKEND is {backend!r}; expected one of {', '.join(_BACKENDS)}.")
    if not importlib.util.find_spec(backend):
        raise UserError(f"KERAS_BACKEND is {backend}, which is not installed: pip install -e '.[{backend}]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if message := compilation_cache.start(cache, backend):
        report_cache(message)
    with _no_garbage_collection(), _stderr_held_back():
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


@contextlib.contextmanager
def _stderr_held_back() -> Iterator[None]:
    """What is written to file descriptor 2 within is dropped, or shown if an exception ends it."""
    if sys.stderr is None:
        # Nobody would see it.
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception:
            captured.seek(0)
            os.write(saved, captured.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _help(usage: str, define_flags: Callable[[flags.FlagValues], None], description: str) -> str:
    values = flags.FlagValues()
    define_flags(values)
    lines = [f"{description.strip()}\n\nUsage: {usage}\n\nFlags:"]
    for name in sorted(values):
        flag = values[name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default_as_str.strip(chr(39))})"
        prefix = "[no]" if flag.boolean else ""
        lines += [f"  --{prefix}{name}{default}", f"      {flag.help}"]
    lines += ["  --flagfile", "      Read flags from this file, one --name=value a line; the last one given wins."]
    return "\n".join(lines)

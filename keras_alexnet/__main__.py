"""All commands under one name: `keras-alexnet fit …`, or `python -m keras_alexnet fit …`."""

import importlib
import os
import sys

from keras_alexnet import cli
from keras_alexnet.command import Command
from keras_alexnet.system.progress import say, write_stderr

COMMANDS = ("prepare", "fit", "evaluate", "predict", "convert")


def command(name: str) -> Command:
    """The command of that name."""
    return importlib.import_module(f"keras_alexnet.{name}").COMMAND


def main() -> None:
    """Runs the command that the first argument names, and exits; without one, lists the commands."""
    program = os.path.basename(sys.argv[0])
    if program == "__main__.py":
        program = "python -m keras_alexnet"
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in COMMANDS:
        del sys.argv[1]
        cli.run(command(name), f"{program} {name}")
    elif name in cli.HELP:
        say(_overview(program))
    elif name == cli.VERSION:
        say(cli.version())
    else:
        problem = "a command is missing" if name is None else f"there is no command {name!r}"
        write_stderr(f"{program}: {problem}. {_overview(program)}\n")
        sys.exit(1)


def _overview(program: str) -> str:
    lines = [f"  {name:8}  {(command(name).description or '').splitlines()[0]}" for name in COMMANDS]
    return "\n".join(["The commands are:", *lines, f"{program} COMMAND --help lists the flags of one."])


if __name__ == "__main__":
    main()

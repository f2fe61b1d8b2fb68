"""What a command line consists of, and flags that are paths."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from absl import flags


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        main: called with the flags and the positional arguments; it raises `UserError` for what the user can fix.
        define_flags: defines the command's flags on the `FlagValues` that it is given.
        description: what `--help` prints above the flags; its first line stands in the list of the commands.
        groups: the flags by heading, each in one of them: names, separated by spaces. `name=WORD` has the help show
            that word for the value, where its type says too little.
        arguments: the positional arguments in the help.
    """

    main: Callable[[flags.FlagValues, list[str]], None]
    define_flags: Callable[[flags.FlagValues], None]
    description: str | None
    groups: Mapping[str, str] = field(default_factory=dict)
    arguments: str = ""

    def flag_values(self) -> flags.FlagValues:
        """The flags, not yet parsed."""
        values = flags.FlagValues()
        self.define_flags(values)
        return values


def define_path(
    name: str, default: str | None, help_text: str, flag_values: flags.FlagValues, *, may_be_empty: bool = False
) -> None:
    """Defines a flag that is a path: `~` is expanded, and an empty or quoted one is an error."""
    parser = PathParser(may_be_empty)
    flags.DEFINE(parser, name, default, help_text, flag_values, flags.ArgumentSerializer())


class PathParser(flags.ArgumentParser):
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

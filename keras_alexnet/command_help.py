"""The help of a command, from the flags that it defines: for a terminal, and as rows for the documentation."""

import os
import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from keras_alexnet.command import Command, PathParser

_MAX_WIDTH, _MIN_WIDTH = 120, 40


class FlagHelp(NamedTuple):
    """How a flag is written, what it does, and its default if it has one."""

    signature: str
    text: str
    default: str | None


_GENERAL = [
    FlagHelp(
        "--flagfile=PATH",
        "Read flags from this file, one --name=value per line, # for comments; the last value of a flag wins. A name "
        "without a folder, such as fit_imagenet, selects a recipe that comes with the package.",
        None,
    ),
    FlagHelp("--version", "Print the version and exit.", None),
    FlagHelp("--help", "Print this text and exit.", None),
]


def flag_groups(command: Command) -> Iterator[tuple[str, list[FlagHelp]]]:
    """The heading and the flags of each group, and those that every command has."""
    values = command.flag_values()
    for heading, names in command.groups.items():
        yield heading, [_flag_help(values, *name.partition("=")[::2]) for name in names.split()]
    yield "General", _GENERAL


def help_text(command: Command, name: str, width: int) -> str:
    """The help, wrapped for a terminal of `width` columns."""
    width = min(max(width, _MIN_WIDTH), _MAX_WIDTH)
    lines = [*_paragraphs(command.description or "", width), f"Usage: {usage(command, name)}"]
    for heading, group in flag_groups(command):
        lines += ["", f"{heading}:"]
        for signature, text, default in group:
            lines.append(f"  {signature}" + (f"  (default: {default})" if default else ""))
            lines += _wrap(text, width, " " * 6)
    return "\n".join(lines)


def usage(command: Command, name: str) -> str:
    """How the command is called."""
    return f"{name} [--FLAG=VALUE …] {command.arguments}".rstrip()


# What a row of a table begins with: indentation, its first column, and the gap after it.
_ROW = re.compile(r" *\S.*? {2,}")


def _flag_help(values: flags.FlagValues, name: str, placeholder: str) -> FlagHelp:
    flag = values[name]
    choices = "|".join(getattr(flag.parser, "enum_values", ()))
    match flag.parser:
        case PathParser():
            placeholder = placeholder or "PATH"
        case flags.IntegerParser():
            placeholder = placeholder or "N"
        case flags.FloatParser():
            placeholder = placeholder or "NUMBER"
    signature = f"--[no]{name}" if flag.boolean else f"--{name}={placeholder or choices or 'TEXT'}"
    default = None
    if flag.default is not False and flag.default not in (None, "", []):
        default = flag.default_as_str.strip("'").replace(os.path.expanduser("~"), "~", 1)
    # absl puts the choices in front of the text.
    return FlagHelp(signature, flag.help.removeprefix(f"<{choices}>: "), default)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """Text reflowed to `width`; indented blocks, which are examples and tables, keep their lines."""
    for block in re.split(r"\n\s*\n", text.strip()):
        if re.search(r"^ ", block, re.MULTILINE):
            for line in _whole_lines(block):
                yield from _wrap_indented(line, width)
        else:
            yield from _wrap(" ".join(block.split()), width)
        yield ""


def _whole_lines(block: str) -> list[str]:
    """The rows and commands of a block, each in one line, whatever lines they are written in."""
    lines: list[str] = []
    for line in block.splitlines():
        row = _ROW.match(lines[-1]) if lines else None
        if lines and lines[-1].endswith("\\"):
            lines[-1] = f"{lines[-1][:-1].rstrip()} {line.strip()}"
        elif row and len(line) - len(line.lstrip()) == row.end():
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return lines


def _wrap_indented(line: str, width: int) -> list[str]:
    """A row of a table continues in its last column, a command after a backslash, so that it can be pasted."""
    if len(line) <= width:
        return [line]
    if row := _ROW.match(line):
        return _wrap(line[row.end() :], width, " " * row.end(), first=row[0])
    indent = line[: len(line) - len(line.lstrip())]
    *lines, last = _wrap(line.lstrip(), width - 2, indent + " " * 4, first=indent)
    return [f"{line} \\" for line in lines] + [last]


def _wrap(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """Lines of at most `width` columns, unless a word is longer; `first` is the indentation of the first one."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )

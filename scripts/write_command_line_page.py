"""Writes docs/command-line.md, the flags of all commands, from their definitions. Run it when a flag has changed."""

import html
from collections.abc import Iterator
from pathlib import Path

from keras_alexnet.__main__ import COMMANDS, command
from keras_alexnet.command import Command
from keras_alexnet.command_help import FlagHelp, flag_groups, usage

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
_HEAD = """# Command line

This page is written by `scripts/write_command_line_page.py`. `--help` prints the same text and shows how to use each
command.

`keras-alexnet fit …` is short for `python -m keras_alexnet.fit …`, and likewise for the other commands. `--[no]name`
stands for `--name` and `--noname`. These flags belong to every command:
"""


def page() -> str:
    """The text of the page."""
    *_, (_, general) = flag_groups(command("fit"))
    lines = [_HEAD, *_list(general)]
    for name in COMMANDS:
        lines += _section(name, command(name))
    return "\n".join(lines) + "\n"


def _section(name: str, command: Command) -> Iterator[str]:
    yield f"\n## {name}\n"
    yield f"{(command.description or '').splitlines()[0]}\n"
    yield f"```\n{usage(command, f'python -m keras_alexnet.{name}')}\n```"
    *groups, _ = flag_groups(command)
    for heading, flags in groups:
        yield f"\n### {heading}\n"
        yield from _list(flags)


def _list(flags: list[FlagHelp]) -> Iterator[str]:
    for signature, text, default in flags:
        yield f"- `{signature}`" + (f" (default: `{default}`)" if default else "") + f": {html.escape(text, False)}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Flagfiles: text files with a flag per line, as absl has them, read as people write them. Standard library only.

Unlike absl, a byte-order mark and comments after a value are skipped, a value may be quoted, a flagfile inside another
one is relative to the folder of that one, and the package's recipes are found by name.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from keras_alexnet.errors import UserError
from keras_alexnet.system.file_names import from_utf8
from keras_alexnet.system.text_file import decode

_FLAG = re.compile(r"--?flagfile(?:=(.*))?", re.DOTALL)
_LINE = re.compile(
    r"""(?P<name>--?\w+)
    (?:=(?: "(?P<double>[^"]*)" | '(?P<single>[^']*)' | (?P<plain>(?!\s*["']).*?) ))?
    (?:\s+\#.*)?""",
    re.VERBOSE,
)
_SUFFIX = ".flags"
_RECIPES = Path(__file__).parent.parent / "flags"


def expand_flagfiles(arguments: Sequence[str]) -> list[str]:
    """Puts the flags of each flagfile in place of its `--flagfile`.

    Raises:
        UserError: a flagfile cannot be read, includes itself, or has a line of another form.
    """
    return _expanded(arguments, folder="", including=())


def flag_line(name: str, value: object) -> str:
    """The line of a flagfile that sets a flag; raises `UserError` for a value that no line can have."""
    text = str(value)
    if "\n" in text or "\r" in text or ("'" in text and '"' in text and re.search(r"\s#|^[\"']|^\s|\s$", text)):
        raise UserError(f"{name} is {text!r}, which cannot be written to a flagfile. Choose a simpler name.")
    if re.search(r"\s#|^[\"']|^\s|\s$", text):
        quote = "'" if '"' in text else '"'
        text = f"{quote}{text}{quote}"
    return f"--{name}={text}\n"


def _expanded(arguments: Sequence[str], folder: str, including: tuple[str, ...]) -> list[str]:
    expanded: list[str] = []
    waiting = list(reversed(arguments))
    while waiting:
        argument = waiting.pop()
        if argument == "--":
            return [*expanded, argument, *reversed(waiting)]
        match = _FLAG.fullmatch(argument)
        if not match:
            expanded.append(argument)
            continue
        path = match[1]
        if path is None and not including:  # On the command line, the file may be the next argument.
            path = waiting.pop() if waiting else None
        if not path:
            raise UserError("--flagfile names no file. Pass the path of a file of --name=value lines.")
        path = _recipe(path, folder) or os.path.join(folder, os.path.expanduser(path))
        if os.path.realpath(path) in including:
            raise UserError(f"the flagfile {path} includes itself. Remove one of the --flagfile lines.")
        inner = (*including, os.path.realpath(path))
        expanded += _expanded(read_flagfile(path), os.path.dirname(path), inner)
    return expanded


def _recipe(name: str, folder: str) -> str | None:
    """The recipe of that name, such as "fit_imagenet"; None for a path, which a file of that name in `folder` is."""
    if os.path.basename(name) != name or os.path.lexists(os.path.join(folder, name)):
        return None
    path = _RECIPES / (name.removesuffix(_SUFFIX) + _SUFFIX)
    return str(path) if path.is_file() else None


def read_flagfile(path: str | os.PathLike) -> list[str]:
    """The flags of a file, without comments and quotes; raises `UserError` where it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        recipes = ", ".join(sorted(recipe.stem for recipe in _RECIPES.glob(f"*{_SUFFIX}")))
        raise UserError(
            f"there is no flagfile {path}. Pass the path of a file of --name=value lines, or the name of a recipe: "
            f"{recipes}."
        ) from None
    except OSError as error:
        raise UserError(f"cannot read the flagfile {path}: {error.strerror}. Expected --name=value lines.") from None
    found = []
    for number, line in enumerate(from_utf8(decode(data, f"the flagfile {path}")).split("\n"), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            raise UserError(
                f"the flagfile {path} has {line[:60]!r} in line {number}; expected --name=value, with quotation marks "
                "around all of the value or nowhere."
            )
        name, double, single, plain = match.groups()
        value = plain.strip() if plain is not None else double if double is not None else single
        found.append(name if value is None else f"{name}={value}")
    return found

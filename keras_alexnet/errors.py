"""The exceptions for errors that the user can fix, and checks that raise them."""

import numbers
import operator
from collections.abc import Sequence
from typing import Any

_SHOWN = 10


class UserError(Exception):
    """A mistake in the input, as opposed to a fault of the program.

    The message says what is wrong, where, what was expected and what to do. Commands print it without a traceback and
    exit with status 1; library users catch it like any exception.
    """


class SettingError(UserError):
    """A setting with a value that does not work; commands print its name as a flag, `--batch_size`.

    Args:
        name: the setting.
        problem: what follows the name in the message: "is 0; expected at least 1."
    """

    def __init__(self, name: str, problem: str):
        super().__init__(name, problem)  # Both, so that it can be pickled.

    def __str__(self) -> str:
        return "{} {}".format(*self.args)


def integer_setting(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Returns an integer of any kind as Python's own; raises `SettingError` for other values, or beyond the bounds."""
    bounds = f"at least {least}" if most is None else f"{least} up to {most}"
    try:
        number = operator.index(value)
    except TypeError:
        raise SettingError(name, f"is {value!r}; expected an integer, {bounds}.") from None
    if number < least or (most is not None and number > most):
        raise SettingError(name, f"is {number}; expected {bounds}.")
    return number


def real_setting(name: str, value: Any) -> float:
    """Returns a number of any kind as Python's own; raises `SettingError` for other values."""
    if not isinstance(value, numbers.Real):
        raise SettingError(name, f"is {value!r}; expected a number.")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, which may be long or empty, to be quoted within a sentence."""
    text = str(error).strip()
    return text.splitlines()[0][:200].rstrip(".") if text else type(error).__name__


def raise_if_any(problems: Sequence[str], summary: str) -> None:
    """Raises one `UserError` that shows the first ten of `problems` under `summary`, and their total."""
    if not problems:
        return
    lines = [f"{summary} ({len(problems):,} {'problem' if len(problems) == 1 else 'problems'}):"]
    lines += [f"  {problem}" for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"  … and {len(problems) - _SHOWN:,} more")
    raise UserError("\n".join(lines))

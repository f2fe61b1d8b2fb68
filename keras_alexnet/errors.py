"""The exception for errors that the user can fix."""

from collections.abc import Sequence

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
        super().__init__(f"{name} {problem}")


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

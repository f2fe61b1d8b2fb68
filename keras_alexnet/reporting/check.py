"""Whether a report can be written, found out before long work. Standard library only."""

import importlib.util
import os
import tempfile

from keras_alexnet.errors import UserError

_PACKAGES = ("matplotlib", "jinja2")


def check_packages() -> None:
    """Raises `UserError` where what a report needs is not installed."""
    missing = [package for package in _PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        raise UserError(f"a report needs {' and '.join(missing)}, not installed here: pip install -e '.[report]'")


def check_report(folder: str | os.PathLike) -> None:
    """Finds out whether a report can be written to `folder`, which is made if need be.

    Raises:
        UserError: packages are missing, or the folder cannot be written to.
    """
    check_packages()
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write a report to {folder}: {error.strerror}. Give a folder that can be written to."
        ) from None

"""Model files by address or by the name of a published model, kept in Keras's cache."""

import contextlib
import hashlib
import os
import re
import socket
import ssl
import sys
import urllib.parse
from pathlib import Path

from keras_alexnet.errors import SettingError, UserError
from keras_alexnet.importers.formats import detect_format
from keras_alexnet.importers.published import PUBLISHED
from keras_alexnet.system.atomic import atomic_path
from keras_alexnet.system.progress import say

_TIMEOUT = 60  # seconds without a byte


def is_remote(source: str) -> bool:
    """Whether `source` is an address, or the name of a published model and not that of a file."""
    return "://" in source or (source in PUBLISHED and not os.path.exists(source))


def local_file(source: str, sha256: str | None = None) -> str:
    """Returns the path of a model file, which is downloaded unless it is in the cache.

    Importing Keras, which downloads, is up to the caller where the start of the framework matters.

    Args:
        source: a path; an address, `https://…` or `http://…`; or a name in `PUBLISHED`.
        sha256: the checksum that the file has to have; without it, that of `PUBLISHED`, if there is one.

    Raises:
        UserError: `source` is an address of another kind, the download fails, or the file is not a model or has
            another checksum. Nothing is left in the cache then.
    """
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise SettingError("sha256", f"is {sha256!r}; expected the 64 hexadecimal digits that sha256sum prints.")
    checksum = None if sha256 is None else f"sha256:{sha256.lower()}"
    if not is_remote(source):
        if checksum:
            _check(source, checksum, source)
        return source
    url = source
    if source in PUBLISHED:
        url, published_checksum, license_ = PUBLISHED[source]
        checksum = checksum or published_checksum
        say(f"{source} is {url}, license: {license_}")
    path = _cached_path(url)
    if path.exists():
        with contextlib.suppress(UserError):
            _check(path, checksum, str(path))
            say(f"Using the copy of an earlier download, {path}")
            return str(path)
    with atomic_path(path) as partial:
        _download(url, partial)
        _check(partial, checksum, url)
        try:
            detect_format(partial)
        except UserError as error:
            raise UserError(str(error).replace(str(partial), url)) from None
    return str(path)


def _cached_path(url: str) -> Path:
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(os.path.basename(parts.path))
    if parts.scheme.lower() not in ("http", "https") or not parts.netloc or not name or "/" in name:
        raise UserError(f"cannot download {url}. Expected an address of a file, https://… or http://….")
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    # Files of one name at several addresses are different files.
    return home / "keras_alexnet" / hashlib.sha256(url.encode()).hexdigest()[:16] / name


def _download(url: str, path: Path) -> None:
    import keras

    # Keras draws its progress bar into files and pipes, too.
    interactive = keras.config.is_interactive_logging_enabled()
    # And it waits forever for a server that has stopped sending.
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(_TIMEOUT)
        if sys.stdout is None or not sys.stdout.isatty():
            keras.config.disable_interactive_logging()
            say(f"Downloading {url}")
        keras.utils.get_file(path.name, url, cache_dir=str(path.parent), cache_subdir="")
    except Exception as error:  # Keras raises bare ones about the network.
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
            raise  # of the disk
        reason = str(error) or type(error).__name__
        reason = reason.removeprefix(f"URL fetch failure on {url}: ").removeprefix("None -- ")
        raise UserError(
            f"cannot download {url}: {reason}. Check the address and the network, or download the file in another way "
            "and pass its path."
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
        if interactive:
            keras.config.enable_interactive_logging()


def _check(path: str | os.PathLike[str], checksum: str | None, source: str) -> None:
    """Raises `UserError` where a file has another checksum."""
    if checksum is None:
        return
    algorithm, expected = checksum.split(":")
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}.") from None
    if not found.startswith(expected):
        raise UserError(
            f"{source} has the {algorithm.upper()} checksum {found}; expected {expected}. The download is incomplete, "
            "or the file has been replaced: check where the checksum is from."
        )

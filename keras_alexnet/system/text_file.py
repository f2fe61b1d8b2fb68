"""Text files that people may have edited, on any system. Standard library only."""

import os

from keras_alexnet.errors import UserError

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def strip_mark(data: bytes, name: str | os.PathLike, *, has_zeros: bool = False) -> bytes:
    """Removes the byte-order mark that editors on Windows put in front of UTF-8.

    Args:
        data: a file, or its beginning.
        name: the file, for messages.
        has_zeros: whether zero bytes may divide the lines.

    Raises:
        UserError: it is text in UTF-16.
    """
    # Without a mark, the zero bytes of Latin letters show UTF-16.
    if data.startswith(_UTF16_MARKS) or (b"\0" in data and not has_zeros):
        raise UserError(
            f"{name} is not UTF-8 text, but probably UTF-16, as some Windows programs write it. Save it as UTF-8, or "
            "convert it: iconv -f UTF-16 -t UTF-8 OLD.txt > NEW.txt."
        )
    return data.removeprefix(_UTF8_MARK)


def with_lf(data: bytes) -> bytes:
    """Replaces line ends of Windows (CRLF) and of classic Mac OS (CR) by LF."""
    return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def decode(data: bytes, name: str | os.PathLike) -> str:
    """The text of a file, without a byte-order mark and with LF; raises as `strip_mark`.

    Bytes that are not UTF-8 become surrogate escapes, since file names are bytes: see `file_names`.
    """
    return with_lf(strip_mark(data, name)).decode("utf-8", "surrogateescape")

"""Names of files in text files. Standard library only.

A file name is bytes. Python decodes them as the locale says, which need not be UTF-8, and other programs read our files
under other locales. So text files contain the bytes themselves, which on most machines are UTF-8.
"""

import os


def to_utf8(name: str) -> str:
    """The text whose UTF-8 encoding, with surrogateescape, is the bytes of a file name."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def from_utf8(text: str) -> str:
    """The file name of a text that was decoded as UTF-8 with surrogateescape."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))

"""CSV as all tools read it: lines end in LF only, and fields with any line break are quoted."""

import csv
from typing import TextIO


class _UnixLines:
    def __init__(self, file: TextIO):
        self._file = file

    def write(self, line: str) -> None:
        self._file.write(line.removesuffix("\r\n") + "\n")


def csv_writer(file: TextIO):
    """A `csv.writer` on a file that was opened with newline=""."""
    # It quotes carriage returns, which may be in names of files, only where they are a part of its line ends.
    return csv.writer(_UnixLines(file), lineterminator="\r\n")

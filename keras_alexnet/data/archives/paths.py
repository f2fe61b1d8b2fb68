"""Paths of files inside archives: `<archive>@/<entry>`. Standard library only."""

import os


def candidates(path: bytes) -> list[tuple[bytes, bytes]]:
    """The ways to read a path as (archive, entry): at each `@` that `/` or a backslash follows."""
    found = []
    at = path.find(b"@")
    while at >= 0:
        if path[at + 1 : at + 2] in (b"/", b"\\"):
            found.append((path[:at], path[at + 2 :].replace(b"\\", b"/")))
        at = path.find(b"@", at + 1)
    return found


def split_archive(path: str | os.PathLike) -> tuple[str, str] | None:
    """Takes a path apart at the first `@/` that an existing file comes before.

    Returns:
        The absolute path of the archive, and the path in it without slashes around it; None if there is none.
    """
    for archive, inside in candidates(os.fsencode(path)):
        if os.path.isfile(archive):
            return os.path.abspath(os.fsdecode(archive)), os.fsdecode(inside).strip("/")
    return None

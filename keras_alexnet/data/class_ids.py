"""Class ids that look the same and are not, in messages. Standard library only."""

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise


def escaped(class_id: str) -> str:
    """A class id with what cannot be seen in it as escapes: `cat\\u200b`, or `cafe\\u0301` where `café` is usual."""
    is_composed = unicodedata.is_normalized("NFC", class_id)

    def displayable(character: str, at_edge: bool) -> str:
        is_visible = character.isprintable() and (character != " " or not at_edge)
        if is_visible and (is_composed or not unicodedata.combining(character)):
            return character
        return character.encode("unicode_escape").decode() if character != " " else r"\x20"

    start, end = len(class_id) - len(class_id.lstrip()), len(class_id.rstrip())
    return "".join(displayable(character, not start <= at < end) for at, character in enumerate(class_id))


def alike_key(class_id: str) -> str:
    """The same for class ids that differ only in case, Unicode normal form, spaces or invisible characters."""
    text = unicodedata.normalize("NFC", class_id)
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split()).lower()


def alike_pairs(class_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of class ids with the same `alike_key`, equal ones too."""
    for _, alike in groupby(sorted(class_ids, key=alike_key), alike_key):
        yield from pairwise(alike)


def difference(first: str, second: str) -> str:
    """What two class ids with the same `alike_key` differ in."""
    if first.lower() == second.lower():
        return "case"
    composed = (unicodedata.normalize("NFC", class_id).lower() for class_id in (first, second))
    return "Unicode normal form" if len(set(composed)) == 1 else "spaces or invisible characters"


def similar(class_id: str, classes: Iterable[str]) -> str:
    """For messages about an unknown class: which one looks like it, in parentheses; empty where none does."""
    key = alike_key(class_id)
    found = next((other for other in classes if other != class_id and alike_key(other) == key), None)
    if found is None:
        return ""
    return f" ('{escaped(class_id)}' and '{escaped(found)}' differ only in {difference(class_id, found)})"

"""Protobuf's text format, which Caffe's `.prototxt` files are in (https://protobuf.dev/reference/protobuf/textformat-spec).

It is read by a schema, and what the schema does not name is passed over, since such files have fields of every fork.
"""

import re
from types import MappingProxyType

import numpy as np

from keras_alexnet.errors import UserError
from keras_alexnet.importers.wire import Span

# Far beyond any name.
LONGEST_STRING = 1_000

# A token of the text format, after white space and comments; `++` and `*+` never try again what has matched.
_TOKEN = re.compile(
    r"""
    (?: \s | \#[^\n]*+ )*+
    (?:
        (?P<string> "(?:[^"\\\n]|\\.)*+" | '(?:[^'\\\n]|\\.)*+' )
      | (?P<word> [\w.+-]++ )
      | (?P<mark> [][{}<>:;,] )
      | (?P<end> \Z )
      | (?P<other> . )
    )
    """,
    re.VERBOSE,
)


def parse_text(text: str, schema: dict, path: str, expected: str) -> dict[str, list]:
    """The fields of a text: name → values, in the order of the text.

    Args:
        text: the text.
        schema: a field's name → its number (of no meaning here) and kind: int, bool, float, str; list[int] for
            integers; a tuple for an enum, its names in the order of their numbers; a dict for a message. Fields whose
            kind is `Span` are passed over, as are those that it does not have.
        path: the file of the text, for messages.
        expected: what it should be, for messages.

    Raises:
        UserError: it is no such text, or a value is not of its kind.
    """
    return _Text(text, path, expected).message(schema)


def as_written(number: float) -> float:
    """The shortest decimal of a float32, so that 0.0001 is not 9.999999747378752e-05."""
    with np.errstate(over="ignore"):
        return float(str(np.float32(number)))


class _Text:
    """Protobuf's text format, read with a schema; fields that it does not know are passed over.

    Args:
        text: the text.
        path: its file, for messages.
        expected: what it should be, for messages.
    """

    _CLOSING = MappingProxyType({"{": "}", "<": ">", "[": "]"})

    def __init__(self, text: str, path: str, expected: str) -> None:
        self._text = text
        self._path = path
        self._expected = expected
        self._tokens = _TOKEN.finditer(text)
        self._kind, self._token, self._at = "", "", 0
        self._take()

    def message(self, schema: dict, closing: str = "") -> dict[str, list]:
        """The fields up to the mark `closing` (or the end), each name → its values."""
        raw: dict[str, list] = {}
        while self._token != closing:
            if self._kind != "word":
                raise self._error("the name of a field")
            name = self._take()
            _, kind = schema.get(name, (None, Span))
            values = raw.setdefault(name, [])
            if self._token == ":":
                self._take()
            elif self._token not in ("{", "<"):
                raise self._error(f"':' or '{{' after {name}")
            if kind is Span:
                self._pass_over()
            elif self._token == "[":
                values += self._list(name, kind)
            else:
                values.append(self._value(name, kind))
            if self._token in (";", ","):
                self._take()
        return raw

    def _list(self, name: str, kind) -> list:
        values = []
        while self._take() != "]":
            if values or self._token != "]":
                values.append(self._value(name, kind))
            if self._token not in (",", "]"):
                raise self._error("',' or ']'")
        return values

    def _value(self, name: str, kind):
        if isinstance(kind, dict):
            if self._token not in ("{", "<"):
                raise self._error(f"'{{' after {name}")
            closing = self._CLOSING[self._take()]
            value = self.message(kind, closing)
            self._take()
            return value
        if kind is str:
            return self._string(name)
        try:
            value = _scalar(self._token, kind)
        except (ValueError, KeyError):
            names = {int: "an integer", list[int]: "an integer", bool: "true or false", float: "a number"}
            expected = names.get(kind) or f"one of {', '.join(kind)}"
            raise self._error(f"{expected} for {name}") from None
        self._take()
        return value

    def _string(self, name: str) -> str:
        value = ""
        if self._kind != "string":
            raise self._error(f"a string in quotes for {name}")
        while self._kind == "string":
            value += re.sub(r"\\(.)", r"\1", self._take()[1:-1])
        if len(value) > LONGEST_STRING:
            raise self._error(f"at most {LONGEST_STRING:,} characters for {name}")
        return value

    def _pass_over(self) -> None:
        """Passes over a value of any kind."""
        if self._kind == "string":
            while self._kind == "string":
                self._take()
            return
        open_marks: list[str] = []
        while True:
            if self._kind in ("end", "other") or (
                self._token in ("}", ">", "]") and self._token not in open_marks[-1:]
            ):
                raise self._error(f"'{open_marks[-1]}'" if open_marks else "a value")
            if self._token in self._CLOSING:
                open_marks.append(self._CLOSING[self._token])
            elif self._token in open_marks[-1:]:
                open_marks.pop()
            self._take()
            if not open_marks:
                return

    def _take(self) -> str:
        """The current token; goes on to the one after it."""
        taken = self._token
        match = next(self._tokens)
        self._kind, self._token, self._at = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)
        return taken

    def _error(self, expected: str) -> UserError:
        line = self._text.count("\n", 0, self._at) + 1
        found = repr(self._token[:40]) if self._token else "the end of the file"
        return UserError(
            f"{self._path}, line {line:,}: expected {expected}, found {found}. Correct it, or give {self._expected}."
        )


def _scalar(token: str, kind):
    """A value of the text format as an object of its kind."""
    if kind in (int, list[int]):
        return int(token, 0)
    if kind is float:
        return as_written(float(re.sub(r"(?<=[\d.])f$", "", token)))
    if kind is bool:
        return {"true": True, "false": False, "t": True, "f": False, "1": True, "0": False}[token.lower()]
    return token if token in kind else dict(enumerate(kind))[int(token)]

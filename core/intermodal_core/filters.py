r"""The filter grammar of containerd's API: which items of a list, which events of a stream.

    filter   := selector ("," selector)*            every selector must hold
    selector := path [operator value]               without an operator: the field is present
    path     := field ("." field)*
    field    := [A-Za-z0-9_-]+ | quoted
    operator := "==" | "!=" | "~="                  equal, not equal, a regular expression that matches somewhere
    value    := quoted | characters up to a comma or white space
    quoted   := "..." with Go's escapes; the value of ~= also /.../ or |...|, in which escapes are read first: /\\d/

Several filters match what any of them matches; no filter at all, or an empty one, matches everything. An absent field
is an empty text to `!=` and `~=` (`a!=b` holds without an `a`), and never equal. Public source followed: containerd's
package `filters`; two things differ: white space may stand between any two parts, and a malformed regular expression is
refused, where the peer lets it match nothing.
"""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intermodal_core.errors import InvalidArgument
from intermodal_core.regex import compile_regex

__all__ = ["Predicate", "Resolver", "compile_filters", "quote", "resolver_of"]

#: Gives a field of the item at hand: its text, and whether it is present.
Resolver = Callable[[tuple[str, ...]], tuple[str, bool]]
Predicate = Callable[[Resolver], bool]

_FIELD = re.compile(r"[A-Za-z0-9_-]+")
_OPERATOR = re.compile(r"[=!~]+")
_SPACE = re.compile(r"\s*")
_ESCAPE = re.compile(r"([abfnrtv\\])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})")
_CONTROLS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}


def compile_filters(filters: Sequence[str]) -> Predicate:
    """The predicate that holds where any of `filters` does.

    Raises InvalidArgument for a malformed filter, with the column (from 1) and what was expected there.
    """
    predicates = [_Parser(text).filter() for text in filters if text]
    if len(predicates) < len(filters) or not filters:
        return lambda resolve: True
    if len(predicates) == 1:
        return predicates[0]
    return lambda resolve: any(predicate(resolve) for predicate in predicates)


def quote(text: str) -> str:
    """`text` as a quoted part of a filter, which reads back as the same text."""
    escapes = {value: f"\\{name}" for name, value in _CONTROLS.items()} | {'"': '\\"'}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, expected: str, at: int | None = None) -> InvalidArgument:
        at = self.at if at is None else at
        found = repr(self.text[at]) if at < len(self.text) else "its end"
        return InvalidArgument(f"filter {self.text!r}, column {at + 1}: expected {expected}, found {found}")

    def peek(self) -> str:
        """The next character that is not white space, "" at the end."""
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at
        return self.text[self.at : self.at + 1]

    def filter(self) -> Predicate:
        selectors = [self.selector()]
        while self.peek() == ",":
            self.at += 1
            selectors.append(self.selector())
        if self.at < len(self.text):
            raise self.fail("',' or the end")
        if len(selectors) == 1:
            return selectors[0]
        return lambda resolve: all(selector(resolve) for selector in selectors)

    def selector(self) -> Predicate:
        fields = [self.field()]
        while self.peek() == ".":
            self.at += 1
            fields.append(self.field())
        path = tuple(fields)
        if self.peek() in ("", ","):
            return lambda resolve: resolve(path)[1]
        operator = _OPERATOR.match(self.text, self.at)
        if operator is None or operator[0] not in ("==", "!=", "~="):
            raise self.fail("'==', '!=' or '~='")
        self.at = operator.end()
        value = self.value(r'"/|' if operator[0] == "~=" else '"')
        if operator[0] == "==":
            return lambda resolve: resolve(path) == (value, True)
        if operator[0] == "!=":
            return lambda resolve: resolve(path)[0] != value
        try:
            search = compile_regex(value)
        except InvalidArgument as error:
            raise InvalidArgument(f"filter {self.text!r}, column {operator.end() + 1}: {error.message}") from None
        return lambda resolve: search(resolve(path)[0])

    def field(self) -> str:
        if self.peek() == '"':
            return self.quoted()
        found = _FIELD.match(self.text, self.at)
        if found is None:
            raise self.fail("a field name of letters, digits, '_' and '-', or a quoted one")
        self.at = found.end()
        return found[0]

    def value(self, quotes: str) -> str:
        first = self.peek()
        if first and first in quotes:
            return self.quoted()
        if not first or first in '",.=!~/|':
            raise self.fail(f"a value, or one in quotes ({' '.join(quotes)})")
        start = self.at
        while self.at < len(self.text) and self.text[self.at] != "," and _visible(self.text[self.at]):
            self.at += 1
        if self.at == start:
            raise self.fail("a value of visible characters, or a quoted one")
        return self.text[start : self.at]

    def quoted(self) -> str:
        """A part in quotes, the escapes read; escapes name bytes or characters, so the text is put together as UTF-8."""
        start, mark = self.at, self.text[self.at]
        self.at += 1
        out = bytearray()
        while True:
            char = self.text[self.at : self.at + 1]
            if char in ("", "\n", "\0"):
                raise self.fail(f"the closing {mark} of the part that begins at column {start + 1}")
            self.at += 1
            if char == mark:
                return out.decode("utf-8", "surrogateescape")
            if char != "\\":
                out += char.encode("utf-8", "surrogatepass")
            elif self.text.startswith(mark, self.at):
                self.at += 1
                out += mark.encode()
            else:
                out += self.escape()

    def escape(self) -> bytes:
        found = _ESCAPE.match(self.text, self.at)
        if found is None:
            raise self.fail("an escape of Go's after the backslash (a backslash itself is written twice)")
        simple, octal, byte, short, long = found.groups()
        if simple:
            code = ord(_CONTROLS[simple])
        else:
            code = int(octal, 8) if octal else int(byte or short or long, 16)
        if code > (0xFF if octal else 0x10FFFF) or 0xD800 <= code <= 0xDFFF:
            raise self.fail("an escape that names a character")
        self.at = found.end()
        return bytes((code,)) if octal or byte else chr(code).encode()


def _visible(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMNPS"


def resolver_of(item: Any) -> Resolver:
    """A resolver over nested mappings, msgspec structs and dataclasses.

    A field of the item itself or of a struct is present where it is not empty; a key of a mapping inside, where it is
    there at all; a mapping itself never is. Keys may contain dots: `labels.a.b` finds the key `a.b` of `labels`.
    Numbers and flags give their text (`true`, `false`), lists their parts joined by commas.
    """

    def resolve(path: tuple[str, ...]) -> tuple[str, bool]:
        return _lookup(item, path, 0)

    return resolve


def _lookup(item: Any, path: tuple[str, ...], depth: int, keyed: bool = False) -> tuple[str, bool]:
    if not path:
        return _text_of(item, keyed)
    if isinstance(item, Mapping):
        for count in range(len(path), 0, -1):
            key = ".".join(path[:count])
            if key in item:
                return _lookup(item[key], path[count:], depth + 1, keyed=depth > 0)
    elif path[0] in getattr(item, "__struct_fields__", ()) or (
        dataclasses.is_dataclass(item) and path[0] in item.__dataclass_fields__
    ):
        return _lookup(getattr(item, path[0]), path[1:], depth + 1)
    return "", False


def _text_of(value: Any, keyed: bool) -> tuple[str, bool]:
    if value is None or isinstance(value, Mapping):
        return "", False
    if isinstance(value, bool):
        return ("true" if value else "false"), True
    if isinstance(value, list | tuple | set | frozenset):
        return ",".join(_text_of(part, keyed)[0] for part in value), bool(value)
    text = str(value)
    return text, keyed or bool(text)

"""Where in a TOML file a key is written: exact, without a second parser, and slow enough to be for errors only.

Any number of whole lines that tomllib accepts ends between two statements, and what they hold only grows with their
number. So the statement that brings a key is found by bisection over prefixes of the file, or of the part of it that begins
with a table's header.
"""

from __future__ import annotations

import tomllib
from functools import lru_cache
from typing import Any

import msgspec

__all__ = ["KeyPath", "dotted", "line_of", "quoted"]

#: Keys and list indexes, from the top.
KeyPath = tuple[str | int, ...]


def quoted(text: str) -> str:
    """`text` as a TOML string in one line."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def dotted(path: KeyPath) -> str:
    """`path` as TOML writes it: `labels."a.b"`, and `rules[2]` for an element of a list."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part and part.isascii() and part.replace("-", "_").replace("_", "a").isalnum()
            text += ("." if text else "") + (part if bare else quoted(part))
    return text


def line_of(text: str, path: KeyPath) -> int:
    """The line (from 1) at which the statement begins that first holds `path`; 0 where `text` never does.

    `path` may name a table, whose header's line it is then, and elements of lists by index. `text` is valid TOML.
    """
    if not any(isinstance(part, int) for part in path):
        for first, part, data in _parts(text):
            if _holds(data, path):
                return first + _line_in(part, path)
        return 0
    return _line_in(text, path) if _holds(tomllib.loads(text), path) else 0


@lru_cache(maxsize=8)
def _parts(text: str) -> tuple[tuple[int, str, dict[str, Any]], ...]:
    """The text in parts that begin with a table's header: how many lines come before each, it, and what it holds.

    What looks like a header may be a line of a string or of a list; then the cut leaves no valid TOML, and the text is one part.
    """
    lines = text.split("\n")
    starts = [0, *(number for number, line in enumerate(lines) if line.lstrip().startswith("[") and number)]
    parts = ["\n".join(lines[start:end]) for start, end in zip(starts, [*starts[1:], None], strict=True)]
    try:
        return tuple((start, part, tomllib.loads(part)) for start, part in zip(starts, parts, strict=True))
    except tomllib.TOMLDecodeError:
        return ((0, text, tomllib.loads(text)),)


def _line_in(text: str, path: KeyPath) -> int:
    """The line of `path`, which `text` holds."""
    lines = text.split("\n")
    shorter: dict[int, int] = {}  # of a number of lines that end inside a statement: how many to try instead

    def prefix(count: int) -> tuple[dict[str, Any], int]:
        """What the longest valid prefix of at most `count` lines holds, and its length."""
        tried = []
        while True:
            count = shorter.get(count, count)
            try:
                data = tomllib.loads("\n".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                tried.append(count)
                count -= 1
            else:
                shorter.update(dict.fromkeys(tried, count))
                return data, count

    low, high = 0, len(lines)
    while low + 1 < high:
        middle = (low + high) // 2
        data, used = prefix(middle)
        if _holds(data, path):
            high = used
        else:
            low = middle
    # The statement ends with line `high`; it begins after the longest prefix that is valid without it.
    return prefix(high - 1)[1] + 1


def _holds(data: Any, path: KeyPath) -> bool:
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True

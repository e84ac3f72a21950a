"""Where in a TOML file a key is written: exact, without a second parser, and slow enough to be for errors only.

Any number of whole lines that tomllib accepts ends between two statements, and what they hold only grows with their
number. So the statement that brings a key is found by bisection over prefixes of the file.
"""

from __future__ import annotations

import tomllib
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

    if not _holds(tomllib.loads(text), path):
        return 0
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

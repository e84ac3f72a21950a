"""Finds plugins and kinds by entry point. Imports none of them."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import site
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["PREFIX", "Found", "SearchPath", "find"]

PREFIX = "intermodal."


@dataclass(frozen=True, slots=True)
class Found:
    """One entry point: its group without the prefix, its name, `module:attribute`, and who offers it."""

    group: str
    name: str
    value: str
    distribution: str
    version: str


class SearchPath:
    """What the `.pth` files of this Python's site directories said when this was made, as Python read them at its start."""

    def __init__(self) -> None:
        self._code = {where for where, line in self._lines() if _is_code(line)}

    def extend(self) -> list[str]:
        """Put on sys.path what their path lines name that is not there yet; a sentence for each new line that is code."""
        sentences = []
        for where, line in self._lines():
            if not _is_code(line):
                path = os.path.join(os.path.dirname(where[0]), line)
                if os.path.isdir(path) and path not in sys.path:
                    sys.path.append(path)
            elif where not in self._code:
                sentences.append(f"{where[0]} has a line of code, which Python runs at its start alone")
        return sentences

    def _lines(self) -> Iterator[tuple[tuple[str, str], str]]:
        """(file, line), and the line itself, of each that says something."""
        user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
        for directory in [*site.getsitepackages(), *user]:
            for path in sorted(glob.glob(os.path.join(glob.escape(directory), "*.pth"))):
                try:
                    with open(path, encoding="utf-8", errors="replace") as file:
                        lines = [line.strip() for line in file]
                except OSError:
                    continue  # removed this moment
                yield from (((path, line), line) for line in lines if line and not line.startswith("#"))


def _is_code(line: str) -> bool:
    return line.startswith(("import ", "import\t"))


def find(distributions: Iterable[importlib.metadata.Distribution] | None = None) -> list[Found]:
    """Every entry point of the groups `intermodal.*`, in the order of sys.path.

    A distribution that lies on the path twice counts once, the first, as Python's imports have it.
    """
    found: list[Found] = []
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions() if distributions is None else distributions:
        text = distribution.read_text("entry_points.txt")
        if text is None or f"[{PREFIX}" not in text:
            continue
        metadata = distribution.metadata  # read and parsed at each look
        name, version = metadata["Name"], metadata["Version"]
        if name in seen:
            continue
        seen.add(name)
        found.extend(
            Found(point.group.removeprefix(PREFIX), point.name, point.value, name, version)
            for point in distribution.entry_points
            if point.group.startswith(PREFIX)
        )
    return found

"""Finds plugins and kinds by entry point. Imports none of them."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["PREFIX", "Found", "find"]

PREFIX = "intermodal."


@dataclass(frozen=True, slots=True)
class Found:
    """One entry point: its group without the prefix, its name, `module:attribute`, and who offers it."""

    group: str
    name: str
    value: str
    distribution: str
    version: str


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
        name = distribution.metadata["Name"]
        if name in seen:
            continue
        seen.add(name)
        found.extend(
            Found(point.group.removeprefix(PREFIX), point.name, point.value, name, distribution.version)
            for point in distribution.entry_points
            if point.group.startswith(PREFIX)
        )
    return found

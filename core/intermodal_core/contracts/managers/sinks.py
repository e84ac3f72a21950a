"""The manager of event sinks: delivers the daemon's events to the places that the config names."""

from __future__ import annotations

from typing import Protocol

import msgspec

__all__ = ["SinkView", "Sinks"]


class SinkView(msgspec.Struct, frozen=True):
    """A sink as operators see it: how far it is, how far behind, and what came of it since the daemon's start.

    `error` is of the try that failed last, "" once one has succeeded since; `lost` counts events that were not kept long enough.
    """

    name: str
    position: int
    lag: int
    delivered: int
    failures: int
    lost: int
    error: str


class Sinks(Protocol):
    """The manager."""

    def views(self) -> list[SinkView]:
        """Every sink in use, by name."""

"""A sink that appends a line of text for each event to a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from intermodal_core.contracts.event_sinks import SunkEvent

__all__ = ["SampleSink"]


class SampleSink:
    """Implements `intermodal_core.contracts.event_sinks.EventSink`."""

    def __init__(self, path: Path, filters: Sequence[str] = ()) -> None:
        self.filters = tuple(filters)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """[E1] A line each: number, id, namespace, topic."""
        self._append("".join(f"{e.sequence} {e.id} {e.namespace} {e.topic}\n" for e in events))

    def lost(self, first: int, last: int) -> None:
        """[E4] A line of its own."""
        self._append(f"lost {first} to {last}\n")

    def close(self) -> None:
        """[E5]."""
        os.close(self._fd)

    def _append(self, text: str) -> None:
        """All of it, on the disk; or nothing, and an OSError: then it is given again."""
        before = os.fstat(self._fd).st_size
        data = text.encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, before)
            raise

"""A file of JSON lines, one event each, that is rotated by size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from intermodal_core.contracts.event_sinks import SunkEvent

__all__ = ["JsonLines"]


class JsonLines:
    """Implements `intermodal_core.contracts.event_sinks.EventSink`.

    Past `size` bytes the file becomes PATH.1, that one PATH.2 and so on; `files` are kept in all. A batch is one write and one
    fdatasync; a part of a batch that a failure left behind is taken back, so every line is whole.
    """

    def __init__(self, path: Path, filters: Sequence[str] = (), size: int = 64 << 20, files: int = 5) -> None:
        self.filters = tuple(filters)
        self._path = path
        self._limit = size
        self._files = files
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()

    def deliver(self, events: tuple[SunkEvent, ...]) -> None:
        """Append the batch."""
        self._append(b"".join(event.json() + b"\n" for event in events))

    def lost(self, first: int, last: int) -> None:
        """A line of its own."""
        self._append(msgspec.json.encode({"lost": {"first": first, "last": last}}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _append(self, data: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._limit:
            self._rotate()
            size = 0
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, size)
            raise

    def _rotate(self) -> None:
        for number in range(self._files - 1, 0, -1):
            older = Path(f"{self._path}.{number}")
            newer = Path(f"{self._path}.{number - 1}") if number > 1 else self._path
            if newer.exists():
                newer.rename(older)
        if self._files == 1:
            os.ftruncate(self._fd, 0)
        fd = self._open()
        os.close(self._fd)
        self._fd = fd

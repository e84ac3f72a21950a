"""Event sinks with one fault each, which the kit must find: run by test_kits.py, not collected by itself."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from intermodal_core.contracts.event_sinks import SunkEvent
from intermodal_core.testing.event_sinks import Arrived, EventSinkKit, Factory
from intermodal_jsonl.sink import JsonLines


class _Kit(EventSinkKit):
    Mutant: type[JsonLines] = JsonLines

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: self.Mutant(top / "events.jsonl")

    def arrived(self, top: Path) -> Sequence[Arrived]:
        lines = [json.loads(line) for line in (top / "events.jsonl").read_text().splitlines()]
        return [
            line["sequence"] if "sequence" in line else (line["lost"]["first"], line["lost"]["last"]) for line in lines
        ]

    @contextmanager
    def broken(self, top: Path) -> Iterator[None]:
        """A disk that is full from here on, for this process."""
        import resource
        import signal

        path = top / "events.jsonl"
        size = path.stat().st_size if path.exists() else 0
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)


class TestCorrect(_Kit):
    """No fault: nothing may fail."""


class TestE1(_Kit):
    class Mutant(JsonLines):
        """Keeps what it got until there is more of it."""

        def deliver(self, events: tuple[SunkEvent, ...]) -> None:
            kept: list[SunkEvent] = self.__dict__.setdefault("_kept", [])
            kept += events
            if len(kept) > 10:
                super().deliver(tuple(kept))
                kept.clear()


class TestE2(_Kit):
    class Mutant(JsonLines):
        """Hides that it could not write."""

        def deliver(self, events: tuple[SunkEvent, ...]) -> None:
            with suppress(Exception):
                super().deliver(events)


class TestE3(_Kit):
    class Mutant(JsonLines):
        """Writes the latest first."""

        def deliver(self, events: tuple[SunkEvent, ...]) -> None:
            super().deliver(events[::-1])


class TestE4(_Kit):
    class Mutant(JsonLines):
        """Does not tell."""

        def lost(self, first: int, last: int) -> None:
            return


class TestE4Error(_Kit):
    class Mutant(JsonLines):
        """Tells it, or not."""

        def lost(self, first: int, last: int) -> None:
            with suppress(Exception):
                super().lost(first, last)


class TestE5(_Kit):
    class Mutant(JsonLines):
        """Keeps a file open."""

        def close(self) -> None:
            self._left = os.open("/", os.O_RDONLY)
            super().close()


class TestE6(_Kit):
    class Mutant(JsonLines):
        """Wants what no grammar has."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.filters = ("topic==",)

"""The sink keeps its contract, and writes what it says."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from intermodal_core.testing.event_sinks import Arrived, EventSinkKit, Factory

from intermodal_sample.sink import SampleSink


class TestContract(EventSinkKit):
    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: SampleSink(top / "events.txt")

    def arrived(self, top: Path) -> Sequence[Arrived]:
        found: list[Arrived] = []
        for line in (top / "events.txt").read_text().splitlines():
            words = line.split()
            found.append((int(words[1]), int(words[3])) if words[0] == "lost" else int(words[0]))
        return found

    @contextmanager
    def broken(self, top: Path) -> Iterator[None]:
        """The file cannot grow any more."""
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((top / "events.txt").stat().st_size, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

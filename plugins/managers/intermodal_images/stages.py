"""How fast each stage of a pull was: bytes, and the seconds that it had something to do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from intermodal_core.contracts.managers.images import Stage

__all__ = ["Stages"]


class Stages:
    """Takes times of stages that overlap. One loop uses it."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._active: dict[str, tuple[int, float]] = {}

    @contextmanager
    def at_work(self, stage: str) -> Iterator[None]:
        """The stage is at work; several at once count once."""
        count, since = self._active.get(stage, (0, 0.0))
        self._active[stage] = (count + 1, since if count else time.monotonic())
        try:
            yield
        finally:
            count, since = self._active[stage]
            self._active[stage] = (count - 1, since)
            if count == 1:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + time.monotonic() - since

    def moved(self, stage: str, count: int) -> None:
        """So many bytes more."""
        self._bytes[stage] = self._bytes.get(stage, 0) + count

    def computed(self, stage: str, count: int, seconds: float) -> None:
        """Bytes, and processor time that was spent on them beside others': a processor each."""
        self.moved(stage, count)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds / (os.cpu_count() or 1)

    def all(self) -> tuple[Stage, ...]:
        """The stages in the order in which they began."""
        return tuple(
            Stage(name, self._bytes.get(name, 0), seconds, self._bytes.get(name, 0) / seconds if seconds else 0.0)
            for name, seconds in self._seconds.items()
        )

    def slowest(self) -> str:
        """The stage that took longest; "" where there was none."""
        return max(self._seconds, key=lambda name: self._seconds[name], default="")

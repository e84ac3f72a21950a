"""When nobody needs the daemon: `intermodald --exit-idle` ends once nothing has been busy for so long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Idle"]


class Idle:
    """Counts what is under way: an open call, a running task. Used on the daemon's loop only.

    Nothing ends before `watch` is called; a daemon that shall stay never calls it.
    """

    def __init__(self) -> None:
        self._count = 0
        self._seconds = 0.0
        self._expired: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """How much is under way."""
        return self._count

    def watch(self, seconds: float, expired: Callable[[], None]) -> None:
        """Call `expired` once nothing has been busy for `seconds`, counted from now at the earliest."""
        self._seconds, self._expired = seconds, expired
        self._arm()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Something is under way within the `with`; it may be held as long as one likes."""
        self._count += 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            yield
        finally:
            self._count -= 1
            self._arm()

    def close(self) -> None:
        """Forget the callback."""
        self._expired = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._expired is not None and not self._count:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expired)

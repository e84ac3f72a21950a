"""When collections run: soon after something went, when something expires, and now and then while there are changes."""

from __future__ import annotations

import asyncio
import logging
import time

from intermodal_core.background import Background
from intermodal_core.contracts.managers.collector import Collector
from intermodal_core.errors import IntermodalError

__all__ = ["Schedule"]

log = logging.getLogger("intermodal.gc")

#: A timer that is longer might miss a change of the clock.
_LONGEST = 3600.0


class Schedule:
    """Runs collections of `collector` on the loop.

    `delay`: seconds from a removal to its collection, in which others join. `grace`: seconds that what nobody refers to is
    kept after its last change, for clients that write first and refer later. `interval`: seconds between collections while
    there are writes, since some garbage comes without a removal. Ends of leases and images are kept to the second,
    whatever else goes on.
    """

    def __init__(self, collector: Collector, delay: float, grace: float, interval: float) -> None:
        self._collector = collector
        self._delay = delay
        self._grace = grace
        self._interval = interval
        self._due = 0.0  # seconds since the epoch
        self._timer: asyncio.TimerHandle | None = None
        self._background = Background(log)
        self._running = False
        self._writes = -1

    def start(self) -> None:
        """Begin, with what the last daemon may have left."""
        self._collector.on_change = self._changed
        self._at(time.time() + self._delay)

    async def stop(self) -> None:
        """End; one that runs is given up between its mark and its sweep, never within them."""
        self._collector.on_change = None
        if self._timer is not None:
            self._timer.cancel()
        await self._background.cancel()

    def _changed(self, end: int) -> None:
        self._at(end / 1e9 if end else time.time() + self._delay)

    def _at(self, due: float) -> None:
        """Collect then, or earlier if something else is due earlier."""
        if self._due and self._due <= due:
            return
        self._due = due
        if not self._running:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait = min(max(0.0, self._due - time.time()), _LONGEST)
        self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        if time.time() < self._due:
            self._arm()
        else:
            self._running = True
            self._background.begin(self._collect())

    async def _collect(self) -> None:
        began, self._due = time.time(), 0.0
        idle = self._writes == self._collector.writes
        try:
            done = await self._collector.collect(grace=self._grace)
        except IntermodalError as error:
            log.warning("nothing was collected this time: %s", error)
            self._at(began + self._interval)
        else:
            # The collection itself writes; what comes after it counts.
            self._writes = self._collector.writes
            for due in (done.next_expiry, done.next_grown):
                if due:
                    self._at(due / 1e9)
            if not idle:
                self._at(began + self._interval)
        finally:
            self._running = False
            if self._due:
                self._arm()

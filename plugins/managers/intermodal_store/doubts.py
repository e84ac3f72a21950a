"""Calls of backends of which nobody knows what came of them: looked into as soon as that can be known.

A call that outlived its deadline may go on; the backend may be down. What is left to find out waits for the one and the other, and
is the next start's where the daemon ends first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from intermodal_core.background import Background
from intermodal_core.errors import DeadlineExceeded, IntermodalError, Unavailable
from intermodal_core.registry import Registry

__all__ = ["UNKNOWN", "Doubts"]

log = logging.getLogger("intermodal.store")

#: The errors after which a call may have had its effect, or have it still.
UNKNOWN = (DeadlineExceeded, Unavailable)
#: Seconds between two looks at a backend that does not answer, where nothing tells of a change.
_PATIENCE = 30.0


class Doubts:
    """What is not known yet."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._background = Background(log)

    def settle(self, error: IntermodalError, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` once the call that ended with `error` is over; again, where that ends so itself."""
        self._background.begin(self._settle(error, work))

    async def close(self) -> None:
        """Leave the rest to the next start."""
        await self._background.cancel()

    async def _settle(self, error: IntermodalError, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            change = self._registry.change()
            if error.ended is not None:
                await asyncio.wait({error.ended})
            try:
                await work()
                return
            except UNKNOWN as again:
                error = again
            if error.ended is None:
                try:
                    await asyncio.wait_for(change.wait(), _PATIENCE)
                except TimeoutError:
                    continue

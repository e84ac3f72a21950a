"""One sink: reads the bus from the sink's position on, delivers, remembers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from intermodal_core.contracts.event_sinks import SunkEvent
from intermodal_core.contracts.managers.sinks import SinkView
from intermodal_core.errors import IntermodalError, OutOfRange
from intermodal_core.events import Event, EventBus, Subscription

__all__ = ["Follower"]

#: Events of one batch, at most.
BATCH = 256
#: Seconds between two tries, at first and at most.
PAUSE, LONGEST_PAUSE = 0.1, 30.0

log = logging.getLogger("intermodal.sinks")


class Follower:
    """Delivers events to the sink `name`; `get()` gives the sink, and is asked again after each failure.

    `remember(position)` keeps how far it is. `position` None: it was never here, and gets what comes from now on.
    """

    def __init__(
        self,
        name: str,
        get: Callable[[], Awaitable[Any]],
        bus: EventBus,
        position: int | None,
        remember: Callable[[int], Awaitable[None]],
    ) -> None:
        self._name = name
        self._get = get
        self._bus = bus
        self._remember = remember
        self._new = position is None
        self._position = bus.newest if position is None else min(position, bus.newest)
        self._waiting: Subscription | None = None  # while nothing that matches is there
        self._delivered = self._failures = self._lost = 0
        self._error = ""

    def view(self) -> SinkView:
        """How it stands."""
        position = self._waiting.position if self._waiting else self._position
        lag = max(0, self._bus.newest - position)
        return SinkView(self._name, position, lag, self._delivered, self._failures, self._lost, self._error)

    async def run(self) -> None:
        """Deliver until cancelled."""
        pause = PAUSE
        if self._new:
            await self._remember(self._position)
        while True:
            before = self._position
            try:
                await self._follow(await self._get())
                return  # the bus has ended
            except Exception as error:  # a stranger's code; whatever it raises, the events are kept for it
                self._note(error)
            pause = PAUSE if self._position > before else min(2 * pause, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _follow(self, sink: Any) -> None:
        if self._position + 1 < self._bus.oldest:
            await self._skip(sink, self._bus.oldest - 1)
        try:
            async with self._bus.subscribe(list(sink.filters), since=self._position) as subscription:
                while batch := await self._next(subscription):
                    for start in range(0, len(batch), BATCH):
                        await self._deliver(sink, batch[start : start + BATCH])
        except OutOfRange:
            await self._skip(sink, self._bus.oldest - 1)
            raise

    async def _next(self, subscription: Subscription) -> list[Event]:
        self._waiting = subscription
        try:
            return await subscription.batch()
        except asyncio.CancelledError:
            await self._advance(subscription.position)  # past what no filter matched
            raise
        finally:
            self._waiting = None

    async def _deliver(self, sink: Any, events: list[Event]) -> None:
        await sink.deliver(tuple(map(self._sunk, events)))
        if self._error:
            log.info("%s takes events again", self._name)
        self._error = ""
        self._delivered += len(events)
        await self._advance(events[-1].sequence)

    async def _skip(self, sink: Any, last: int) -> None:
        first = self._position + 1
        if last < first:
            return
        await sink.lost(first, last)
        self._lost += last - first + 1
        log.error("%s: the events %d to %d were not kept until it could take them", self._name, first, last)
        await self._advance(last)

    async def _advance(self, position: int) -> None:
        self._position = position
        await self._remember(position)

    def _note(self, error: Exception) -> None:
        self._failures += 1
        text = str(error) if isinstance(error, IntermodalError) else f"{type(error).__name__}: {error}"
        if text != self._error:
            log.warning("%s does not take events, which are kept for it: %s", self._name, text)
        self._error = text

    def _sunk(self, event: Event) -> SunkEvent:
        return SunkEvent(
            event.sequence,
            event.id,
            event.timestamp,
            event.namespace,
            event.topic,
            event.type_url,
            dict(self._bus.fields(event)),
            event.data,
        )

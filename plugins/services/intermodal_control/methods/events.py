"""Methods about events."""

from __future__ import annotations

import time
from typing import Any

from intermodal_core.errors import InvalidArgument

from intermodal_control.methods.room import Nothing, Params, Room
from intermodal_control.server import Call, Method

__all__ = ["EventMethods"]


#: A subscriber that is further behind than this is told so, at most once in LAG_PAUSE seconds.
LAG, LAG_PAUSE = 1024, 1.0


class Subscribe(Params):
    """`events.subscribe`: those that match a filter, after the sequence number `since` or not older than `since_time`."""

    filters: tuple[str, ...] = ()
    since: int | None = None
    since_time: int | None = None
    all_namespaces: bool = False


class EventMethods(Room):
    """`events.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {
            "events.subscribe": Method(self._subscribe, cancel=True),
            "events.sinks": Method(self._sinks),
        }

    async def _sinks(self, call: Call) -> Any:
        call.params(Nothing)
        return self._context.get("managers", "sinks").views()

    async def _subscribe(self, call: Call) -> None:
        params = call.params(Subscribe)
        since = params.since
        if params.since_time is not None:
            if since is not None:
                raise InvalidArgument("events.subscribe takes since or since_time, not both")
            since = self._events.before(params.since_time)
        told = 0.0
        async with self._events.subscribe(list(params.filters), since=since) as subscription:
            await call.event({"subscribed": True})
            async for event in subscription:
                if params.all_namespaces or event.namespace == call.scope.namespace:
                    await call.event(
                        {
                            "sequence": event.sequence,
                            "timestamp": event.timestamp,
                            "namespace": event.namespace,
                            "topic": event.topic,
                            "type": event.type_url,
                            "fields": dict(self._events.fields(event)),
                        }
                    )
                if subscription.lag > LAG and time.monotonic() - told > LAG_PAUSE:
                    told = time.monotonic()
                    await call.event({"lag": subscription.lag})

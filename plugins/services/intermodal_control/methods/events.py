"""Methods about events."""

from __future__ import annotations

from intermodal_control.methods.room import Params, Room
from intermodal_control.server import Call, Method

__all__ = ["EventMethods"]


class Subscribe(Params):
    """`events.subscribe`: those that match a filter, after the sequence number `since`."""

    filters: tuple[str, ...] = ()
    since: int | None = None
    all_namespaces: bool = False


class EventMethods(Room):
    """`events.*`."""

    def table(self) -> dict[str, Method]:
        """The rows."""
        return {"events.subscribe": Method(self._subscribe, cancel=True)}

    async def _subscribe(self, call: Call) -> None:
        params = call.params(Subscribe)
        async with self._events.subscribe(list(params.filters), since=params.since) as subscription:
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

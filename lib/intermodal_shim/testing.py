"""What a daemon is to shims: for tests of runtimes that are driven by our shim."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.events import task_pb2 as events
from intermodal_api.containerd.services.ttrpc_events_pb2 import ForwardRequest
from intermodal_core.errors import Unavailable
from intermodal_ttrpc.server import Call, Server, bind

from intermodal_shim.driver import ShimRuntime

__all__ = ["ShimDaemon", "opener"]


class ShimDaemon:
    """A runtime, and a ttrpc socket below `state` that takes its shims' events.

    `make(address, **options)` makes the runtime, which sends its events to that address; `all_events=True` of a ShimRuntime makes
    it send those, too, that the tasks manager publishes.
    """

    def __init__(self, make: Callable[..., ShimRuntime], state: Path, **options: Any) -> None:
        state.mkdir(exist_ok=True)
        self.state = state
        self.address = str(state / "events.ttrpc")
        self.runtime = make(self.address, **options)
        self.events: list[tuple[str, Message]] = []
        self.changed = asyncio.Condition()
        #: How many of the next events are refused.
        self.refuse = 0
        self._server: Server | None = None

    def listen(self) -> None:
        """Take events from now on."""
        forward = {"Forward": (ForwardRequest, self._forward)}
        self._server = Server(bind(self.address), {"containerd.services.events.ttrpc.v1.Events": forward})

    async def close(self) -> None:
        """The daemon's end: tasks and their shims live on."""
        await self.runtime.stop()
        if self._server is not None:
            await self._server.stop()

    async def _forward(self, request: ForwardRequest, call: Call) -> Empty:
        if self.refuse:
            self.refuse -= 1
            raise Unavailable("not committed")
        envelope = request.envelope
        kind = getattr(events, envelope.event.type_url.rpartition(".")[2])
        async with self.changed:
            self.events.append((envelope.topic, kind.FromString(envelope.event.value)))
            self.changed.notify_all()
        return Empty()

    async def event(self, topic: str, count: int = 1) -> Any:
        """The count-th event of the topic, waited for."""
        async with self.changed:
            await self.changed.wait_for(lambda: sum(name == topic for name, _ in self.events) >= count)
        return [event for name, event in self.events if name == topic][count - 1]


def opener(make: Callable[..., ShimRuntime], state: Path) -> Callable[..., AbstractAsyncContextManager[ShimDaemon]]:
    """The fixture `opened` of `intermodal_core.testing.runtimes.RuntimeKit` for a runtime that `make(address, **options)` makes."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[ShimDaemon]:
        daemon = ShimDaemon(make, state, **options)
        daemon.listen()
        try:
            yield daemon
        finally:
            await daemon.close()

    return opened

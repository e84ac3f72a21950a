"""A backend of this process on a socket, as `services.serve` puts one there, for proxies to call from the test's threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from intermodal_core.calls import Guard, Pool
from intermodal_http2.server import Server
from intermodal_wire.calls import Call, Service


class Served:
    """Servers on one loop, in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="served")
        self._thread.start()
        self._servers: list[Server] = []
        self._closers: list[Callable[[], object]] = []

    def serve(self, service: Callable[[Any], Service], backend: Any, address: Path) -> None:
        """Serve `service(guarded backend)` at the address."""
        guard = Guard("served", backend, Pool("served", 8), 60)

        async def listen() -> None:
            server = Server([service(guard)], call=Call)
            await server.listen(str(address))
            self._servers.append(server)

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(10)

    def at_the_end(self, close: Callable[[], object]) -> None:
        """Call it when all ends."""
        self._closers.append(close)

    def close(self) -> None:
        """End all."""
        for close in self._closers:
            close()
        for server in self._servers:
            asyncio.run_coroutine_threadsafe(server.close(0), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def serving() -> Iterator[Served]:
    """A place for servers."""
    served = Served()
    try:
        yield served
    finally:
        served.close()

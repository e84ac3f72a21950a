"""A gRPC server on a unix socket: finds methods by the services' descriptors, and ends gracefully."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from intermodal_core.errors import from_os_error
from intermodal_ttrpc.channel import bind

from intermodal_http2.call import Call, Exchange, Method, Methods
from intermodal_http2.connection import Connection
from intermodal_http2.heads import Head

__all__ = ["Server", "Service"]

#: Seconds that a call that was cancelled has to clean up after itself.
_CLEANING = 5.0
_BACKLOG = 512


class Service:
    """A service: its descriptor, and a coroutine method, or an async generator, for each method in snake case.

    A method is called with the request and the call; where the client streams, with an async iterator of requests.
    """

    descriptor: ServiceDescriptor


def _unserved(service: str, method: str) -> str:
    return f"unknown method {method} for service {service}"


class Server:
    """Serves `services`. `busy` is entered while a call runs.

    `call` makes what a method gets to know of its call; `unserved(service, method)` is the sentence that answers a call of
    what is not served, which ends with UNIMPLEMENTED.
    """

    def __init__(
        self,
        services: Iterable[Service],
        busy: Callable[[], AbstractContextManager[None]] = nullcontext,
        call: Callable[[Exchange], Any] = Call,
        unserved: Callable[[str, str], str] = _unserved,
    ) -> None:
        paths = {
            f"/{service.descriptor.full_name}/{method.name}".encode(): _method(method, implementation)
            for service in services
            for method in service.descriptor.methods
            if (implementation := getattr(service, _snake(method.name), None)) is not None
        }
        self._methods = Methods(paths, busy, unserved, call)
        self._connections: set[Connection] = set()
        self._gone = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._address = ""

    async def listen(self, address: str, mode: int = 0o600, owner: int = -1, group: int = -1) -> None:
        """Bind and serve; nobody can connect before mode, owner and group are right. Raises the error by meaning."""
        try:
            sock = bind(address, mode=0o600, backlog=_BACKLOG)
            os.chown(address, owner, group)
            os.chmod(address, mode)
        except OSError as error:
            raise from_os_error(error, f"listening on {address}") from error
        self._address = address
        self._server = await asyncio.get_running_loop().create_unix_server(self._connect, sock=sock, backlog=_BACKLOG)

    async def close(self, grace: float) -> None:
        """Take no new calls; those that run have `grace` seconds, and then end with UNAVAILABLE."""
        if self._server is None:
            return
        self._server.close()
        try:
            os.unlink(self._address)
        except FileNotFoundError:
            pass
        for connection in list(self._connections):
            connection.leave()
        if not await self._ended(grace):
            for connection in list(self._connections):
                for stream in list(connection.streams.values()):
                    assert isinstance(stream, Exchange)
                    stream.stop()
                connection.close()
            await self._ended(_CLEANING)

    async def _ended(self, seconds: float) -> bool:
        """Whether every connection, with all that runs for it, came to its end within the time."""
        try:
            async with asyncio.timeout(seconds):
                while self._connections:
                    self._gone.clear()
                    await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def _connect(self) -> Connection:
        connection = Connection(self._exchange, self._closed)
        self._connections.add(connection)
        return connection

    def _exchange(self, connection: Connection, id: int, head: Head) -> Exchange:
        return Exchange(connection, id, head, self._methods)

    def _closed(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._gone.set()


def _method(described: Any, implementation: Any) -> Method:
    return Method(
        described.full_name,
        GetMessageClass(described.input_type).FromString,
        GetMessageClass(described.output_type).SerializeToString,
        implementation,
        described.client_streaming,
        described.server_streaming,
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()

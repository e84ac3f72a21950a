"""Serves the numbers over HTTP/1.1, one request a connection: all that a scraper asks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Self

from intermodal_core.errors import from_os_error
from intermodal_core.plugin import Context

from intermodal_metrics.exposition import exposition

if TYPE_CHECKING:
    from intermodal_metrics.plugin import Config

__all__ = ["Metrics"]

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0


class Metrics:
    """The server's life within the daemon's."""

    def __init__(self, context: Context[Config]) -> None:
        self._registry = context.registry
        self._address = context.config.address
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises the error by meaning."""
        core = self._registry.config.core
        try:
            if self._address.startswith("/"):
                Path(self._address).unlink(missing_ok=True)
                self._server = await asyncio.start_unix_server(self._answer, self._address)
                Path(self._address).chmod(int(core.socket_mode, 8))
            else:
                host, _, port = self._address.rpartition(":")
                self._server = await asyncio.start_server(self._answer, host.strip("[]"), int(port))
        except OSError as error:
            raise from_os_error(error, f"listening on {self._address}") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let go of the socket."""
        if self._server is not None:
            self._server.close()
            if self._address.startswith("/"):
                Path(self._address).unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.split(b"\r\n", 1)[0].split()))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a scraper that went, or none
        finally:
            writer.close()

    def _response(self, request: list[bytes]) -> bytes:
        method, path = (request[0], request[1].partition(b"?")[0]) if len(request) == 3 else (b"", b"")
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "only GET is answered here\n"
        elif path != b"/metrics":
            status, body = "404 Not Found", "the numbers are at /metrics\n"
        else:
            status, body = "200 OK", exposition(self._registry)
        data = body.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        return head.encode() + (b"" if method == b"HEAD" else data)

"""A service that tells the state of the daemon's plugins: a client connects to its socket and reads one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["SampleService"]


class SampleService:
    """Implements `intermodal_core.contracts.services.Service`; `report` is asked for each client."""

    def __init__(self, socket: Path, report: Callable[[], Mapping[str, Any]]) -> None:
        self._socket = socket
        self._report = report
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> SampleService:
        """[L3] Listen."""
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)  # of one that was killed
        self._server = await asyncio.start_unix_server(self._answer, self._socket)
        os.chmod(self._socket, 0o660)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """[L4] Hang up."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._socket.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(json.dumps(self._report()).encode() + b"\n")
            await writer.drain()
        finally:
            writer.close()

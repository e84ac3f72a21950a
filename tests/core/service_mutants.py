"""Services with one fault each, which the kit must find: run by test_kits.py, not collected by itself."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest
from intermodal_core.testing.services import Factory, ServiceKit


class Echo:
    """Says a line back, on a socket of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server: asyncio.Server | None = None
        self.clients: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Echo:
        self.path.unlink(missing_ok=True)
        self.server = await asyncio.start_unix_server(self.answer, self.path)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.server is not None
        self.server.close()
        for client in list(self.clients):
            client.close()
        await asyncio.sleep(0.01)
        self.path.unlink(missing_ok=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.clients.add(writer)
        try:
            while line := await reader.readline():
                writer.write(line)
        finally:
            self.clients.discard(writer)
            writer.close()


class _Kit(ServiceKit):
    Mutant: type[Echo] = Echo
    within = 2.0

    @pytest.fixture
    def factory(self) -> Factory:
        return lambda top: self.Mutant(top / "echo.sock")

    async def ask(self, top: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(top / "echo.sock")
        try:
            writer.write(b"hello\n")
            if await reader.readline() != b"hello\n":
                raise ConnectionResetError("no answer")
        finally:
            writer.close()
            await asyncio.sleep(0)


class TestCorrect(_Kit):
    """No fault: nothing may fail."""

    within = 30.0


class TestL1(_Kit):
    class Mutant(Echo):
        """Has its socket from the beginning."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self._early = socket.socket(socket.AF_UNIX)


class TestL2(_Kit):
    class Mutant(Echo):
        """Reads something long, on the loop."""

        async def __aenter__(self) -> Echo:
            time.sleep(0.3)  # noqa: ASYNC251 - the fault
            return await super().__aenter__()


class TestL3(_Kit):
    class Mutant(Echo):
        """Is ready later than it says."""

        async def __aenter__(self) -> Echo:
            self._later = asyncio.create_task(self._serve())
            return self

        async def _serve(self) -> None:
            await asyncio.sleep(0.2)
            await super().__aenter__()

        async def __aexit__(self, *_: object) -> None:
            await self._later
            await super().__aexit__()


class TestL3Killed(_Kit):
    class Mutant(Echo):
        """Expects a clean place."""

        async def __aenter__(self) -> Echo:
            if self.path.exists():
                raise OSError("in use")
            return await super().__aenter__()


class TestL4(_Kit):
    class Mutant(Echo):
        """Leaves its socket."""

        async def __aexit__(self, *_: object) -> None:
            assert self.server is not None
            self.server.close()
            self.path.unlink()
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.path))
            listener.close()


class TestL4Thread(_Kit):
    class Mutant(Echo):
        """Leaves a thread."""

        async def __aenter__(self) -> Echo:
            threading.Thread(target=time.sleep, args=(20,), name=f"worker-{id(self)}", daemon=True).start()
            return await super().__aenter__()


class TestL4Waits(_Kit):
    class Mutant(Echo):
        """Waits until it was asked no more for a whole minute."""

        async def __aexit__(self, *_: object) -> None:
            await super().__aexit__()
            await asyncio.sleep(60)

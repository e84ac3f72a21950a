"""A server of a small service, on a thread of its own, and a peer that speaks raw frames to it."""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import BytesValue
from intermodal_core.errors import NotFound
from intermodal_http2.call import Call
from intermodal_http2.server import Server, Service

from tests.lib.http2.peer import Peer


def _descriptor() -> Any:
    """test.Echo: a method of each of the four kinds, and some that misbehave; all on BytesValue."""
    file = descriptor_pb2.FileDescriptorProto(name="test_echo.proto", package="test", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    service = file.service.add(name="Echo")
    for name, requests, answers in (
        ("Say", False, False),
        ("Times", False, True),
        ("Join", True, False),
        ("Chat", True, True),
        ("Hang", False, False),
        ("Fail", False, False),
        ("Break", False, False),
        ("Metadata", False, False),
        ("Watch", False, True),
        ("Deaf", True, True),
        ("Missing", False, False),
    ):
        service.method.add(
            name=name,
            input_type=".google.protobuf.BytesValue",
            output_type=".google.protobuf.BytesValue",
            client_streaming=requests,
            server_streaming=answers,
        )
    pool = descriptor_pool.Default()
    return pool.AddSerializedFile(file.SerializeToString()).services_by_name["Echo"]


class Echo(Service):
    """What is asked for comes back. `ended` hears how a call of Hang, Watch or Deaf came to its end."""

    descriptor = _descriptor()

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended: list[str] = []
        self.hold = asyncio.Event()

    async def say(self, request: BytesValue, call: Call) -> BytesValue:
        return request

    async def times(self, request: BytesValue, call: Call) -> AsyncIterator[BytesValue]:
        """`COUNT SIZE`: so many messages of that size."""
        count, size = map(int, request.value.split())
        for number in range(count):
            yield BytesValue(value=bytes([number % 251]) * size)

    async def join(self, requests: AsyncIterator[BytesValue], call: Call) -> BytesValue:
        return BytesValue(value=b"".join([request.value async for request in requests]))

    async def chat(self, requests: AsyncIterator[BytesValue], call: Call) -> AsyncIterator[BytesValue]:
        async for request in requests:
            yield BytesValue(value=request.value[::-1])

    async def hang(self, request: BytesValue, call: Call) -> BytesValue:
        return await self._hang("hang")

    async def watch(self, request: BytesValue, call: Call) -> AsyncIterator[BytesValue]:
        call.send_initial_metadata()
        yield await self._hang("watch")

    async def deaf(self, requests: AsyncIterator[BytesValue], call: Call) -> AsyncIterator[BytesValue]:
        """Takes nothing until `hold` is set."""
        await self.hold.wait()
        async for request in requests:
            yield request

    async def fail(self, request: BytesValue, call: Call) -> BytesValue:
        raise NotFound(request.value.decode())

    async def metadata(self, request: BytesValue, call: Call) -> BytesValue:
        name = request.value.decode()
        values = call.binary_metadata(name) if name.endswith("-bin") else call.metadata_values(name)
        return BytesValue(value=repr((call.metadata(name), values)).encode())

    async def _hang(self, name: str) -> BytesValue:
        self.begun.release()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.ended.append(name)
            raise
        raise AssertionError


setattr(Echo, "break", lambda self, request, call: _break())


async def _break() -> BytesValue:
    raise ZeroDivisionError("by nought")


class Serving:
    """A running server."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / secrets.token_hex(4))
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.echo = Echo()
        self.busy = 0

        async def listen() -> Server:
            server = Server([self.echo])
            await server.listen(self.address)
            return server

        self.server = self.run(listen())

    def run(self, work: Any, timeout: float = 30) -> Any:
        """Await it on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout)

    def do(self, work: Callable[[], object]) -> None:
        """Call it on the server's loop."""
        self.loop.call_soon_threadsafe(work)

    def close(self, grace: float = 0) -> None:
        self.run(self.server.close(grace))

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    with tempfile.TemporaryDirectory() as directory:
        running = Serving(Path(directory))
        try:
            yield running
        finally:
            running.close()
            running.end()


@pytest.fixture
def peer(serving: Serving) -> Iterator[Peer]:
    with connected(serving) as peer:
        yield peer


def connected(serving: Serving) -> Peer:
    """A peer that said preface and SETTINGS."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(serving.address)
    peer = Peer(sock)
    peer.hello()
    return peer

"""JSON lines with file descriptors on a unix stream socket, on the daemon's loop.

A line that brings descriptors says how many in its key `descriptors`; they travel by SCM_RIGHTS with its first bytes.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

import msgspec
from intermodal_core.errors import InvalidArgument

__all__ = ["Connection"]

#: A command line may be 2 MiB; what comes beside it is small.
LINE_LIMIT = 4 << 20
#: Descriptors that may wait for their line.
DESCRIPTOR_LIMIT = 16

_INTS = array.array("i").itemsize


class Connection:
    """One client. `receive` and `send` may run side by side, each once at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    async def receive(self) -> bytes | None:
        """The next line; None once the client has closed. Raises InvalidArgument for one that is too long."""
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LINE_LIMIT:
                raise InvalidArgument(f"a line is longer than {LINE_LIMIT} bytes")
            if not await self._read():
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def take(self, count: int) -> list[int]:
        """The descriptors of the line just received; the caller closes them. Raises InvalidArgument when some are missing."""
        if not 0 <= count <= len(self._descriptors):
            raise InvalidArgument(f"the call says it brings {count} descriptors, and {len(self._descriptors)} came")
        taken, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        return taken

    async def send(self, line: Any, descriptors: Sequence[int] = ()) -> None:
        """Write one line, waiting while the client does not read. Raises ConnectionError once it is gone."""
        data = memoryview(msgspec.json.encode(line) + b"\n")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        while data:
            try:
                sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                await self._writable()
                continue
            data, rights = data[sent:], []

    def close(self) -> None:
        """End it; descriptors that no line asked for are closed too."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._sock.close()

    async def _read(self) -> bool:
        while True:
            try:
                data, ancillary, flags, _ = self._sock.recvmsg(
                    65536, socket.CMSG_SPACE(DESCRIPTOR_LIMIT * _INTS), socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                await self._readable()
            except ConnectionError:
                return False
        for level, kind, rights in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                self._descriptors += array.array("i", rights[: len(rights) - len(rights) % _INTS])
        if flags & socket.MSG_CTRUNC or len(self._descriptors) > DESCRIPTOR_LIMIT:
            raise InvalidArgument(f"a call brings more than {DESCRIPTOR_LIMIT} descriptors")
        self._buffer += data
        return bool(data)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_reader(self._sock, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_reader(self._sock)

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        loop.add_writer(self._sock, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._sock)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)

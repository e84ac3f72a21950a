"""An asyncio client: many calls at once over one connection."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from intermodal_core.errors import DeadlineExceeded, IntermodalError, Internal, ResourceExhausted, Unavailable

from intermodal_ttrpc import framing, messages
from intermodal_ttrpc.channel import Channel
from intermodal_ttrpc.channel import connect as connect_socket
from intermodal_ttrpc.framing import Frame

__all__ = ["Client"]

M = TypeVar("M", bound=Message)

_RETRY = 0.005


class Client:
    """Calls over a connected socket, which it owns. To be made and used on a running asyncio loop.

    `on_close` is called once, when the peer went away or `close` was called.
    """

    def __init__(self, sock: socket.socket, on_close: Callable[[], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, tuple[asyncio.Future[bytes], str]] = {}
        self._stream = -1
        self._on_close = on_close
        self._channel = Channel(sock, self._loop, self._frame, self._closed)

    @classmethod
    async def connect(cls, path: str, timeout: float = 5.0, on_close: Callable[[], None] | None = None) -> Client:
        """Connect to the unix socket at `path`. Raises Unavailable when nobody listens there."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                return cls(connect_socket(path), on_close)
            except OSError as error:
                full = error.errno == errno.EAGAIN
                if not full or asyncio.get_running_loop().time() > deadline:
                    raise Unavailable(f"connecting to {path}: {error.strerror}; is its server running?") from error
            await asyncio.sleep(_RETRY)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._channel.closed

    def close(self) -> None:
        """End the connection; calls under way raise Unavailable."""
        self._channel.close()

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        fds: Sequence[int] = (),
    ) -> M:
        """Call `service`/`method` and return its answer.

        `timeout` in seconds is sent along and kept here too (DeadlineExceeded). `fds` travel with the request and stay the
        caller's. Raises the error that the peer answered, Unavailable when the connection is or goes away.
        """
        what = f"calling {service}/{method}"
        if self._channel.closed:
            raise Unavailable(f"{what}: the connection is closed")
        self._stream += 2
        stream = self._stream
        frame = messages.encode_request(stream, service, method, request, timeout, metadata or {})
        answer: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[stream] = (answer, what)
        timer = None
        if timeout is not None:
            late = DeadlineExceeded(f"{what}: no answer within {timeout:g} s")
            timer = self._loop.call_later(timeout, _fail, answer, late)
        try:
            self._channel.send(frame, fds)
            payload = messages.open_response(await answer, what)
        finally:
            self._calls.pop(stream, None)
            if timer is not None:
                timer.cancel()
        try:
            return response.FromString(payload)
        except DecodeError as error:
            raise Internal(f"{what}: the answer is no {response.DESCRIPTOR.full_name} ({error})") from error

    def _frame(self, channel: Channel, frame: Frame) -> None:
        for fd in frame.fds:
            os.close(fd)
        answer, what = self._calls.get(frame.stream, (None, ""))
        if answer is None or frame.kind != framing.RESPONSE or answer.done():
            return
        if frame.oversize:
            _fail(answer, ResourceExhausted(f"{what}: the answer of {frame.oversize} bytes is over ttrpc's limit"))
        else:
            answer.set_result(frame.payload)

    def _closed(self, channel: Channel) -> None:
        for answer, what in self._calls.values():
            _fail(answer, Unavailable(f"{what}: the connection went away; the outcome is unknown"))
        if self._on_close is not None:
            self._on_close()


def _fail(answer: asyncio.Future[bytes], error: IntermodalError) -> None:
    if not answer.done():
        answer.set_exception(error)

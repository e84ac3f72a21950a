"""The server's half that needs no asyncio: accepts, reads calls, finds handlers, sends answers that may come later."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import DecodeError, Message
from intermodal_api.ttrpc.request_pb2 import Request
from intermodal_core.errors import (
    IntermodalError,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unimplemented,
)

from intermodal_ttrpc import framing, messages
from intermodal_ttrpc.channel import Channel, Poller
from intermodal_ttrpc.framing import Frame

__all__ = ["Call", "Listener", "Services"]

#: "package.Service" -> method -> (request type, handler(request, call)).
Services = Mapping[str, Mapping[str, tuple[type[Message], Callable[..., Any]]]]


class Call:
    """One call, to be answered once by `reply` or `fail`; whatever follows is ignored.

    `timeout` is in seconds, 0 for none. `fds` came with the call and are closed with the answer; `take_fds` keeps them.
    """

    __slots__ = ("_channel", "_stream", "answered", "fds", "metadata", "method", "service", "timeout")

    def __init__(self, channel: Channel, frame: Frame, request: Request) -> None:
        self._channel = channel
        self._stream = frame.stream
        self.fds = frame.fds
        self.service = request.service
        self.method = request.method
        self.timeout = request.timeout_nano / 1e9
        self.metadata = {pair.key: pair.value for pair in request.metadata} if request.metadata else {}
        self.answered = False

    @property
    def connected(self) -> bool:
        """Whether an answer can still reach the caller."""
        return not self._channel.closed

    def take_fds(self) -> tuple[int, ...]:
        """The descriptors, from now on the taker's to close."""
        fds, self.fds = self.fds, ()
        return fds

    def reply(self, message: Message) -> None:
        """Answer with the message."""
        if self._answer():
            self._channel.send(messages.encode_response(self._stream, message))

    def fail(self, error: Exception) -> None:
        """Answer with the error; one that is not of our set becomes Internal."""
        if not isinstance(error, IntermodalError):
            error = Internal(f"{self.service}/{self.method}: {type(error).__name__}: {error}")
        if self._answer():
            self._channel.send(messages.encode_error(self._stream, error))

    def _answer(self) -> bool:
        if self.answered:
            return False
        self.answered = True
        for fd in self.take_fds():
            os.close(fd)
        return True


class Listener:
    """Serves `services` on a listening unix socket, which it owns.

    A handler is called as `handler(request, call)`: it returns the answer, or None and answers through `call` later. What it
    raises is the answer too; `on_defect(call, error)` hears of an exception that is not an IntermodalError.
    """

    def __init__(
        self,
        sock: socket.socket,
        poller: Poller,
        services: Services,
        on_defect: Callable[[Call, Exception], None] | None = None,
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._poller = poller
        self._services = services
        self._on_defect = on_defect
        self.channels: set[Channel] = set()
        poller.add_reader(sock.fileno(), self._accept)

    def close(self) -> None:
        """Stop listening and end all connections."""
        if self._sock.fileno() >= 0:
            self._poller.remove_reader(self._sock.fileno())
            self._sock.close()
        for channel in list(self.channels):
            channel.close()

    def invoke(self, handler: Callable[..., Any], request: Message, call: Call) -> None:
        """Run a handler; the asyncio server has its own way."""
        answer = handler(request, call)
        if answer is not None:
            call.reply(answer)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        self.channels.add(Channel(sock, self._poller, self._frame, self.channels.discard, holding=True))

    def _frame(self, channel: Channel, frame: Frame) -> None:
        if frame.kind != framing.REQUEST or frame.oversize:
            for fd in frame.fds:
                os.close(fd)
            if frame.oversize:
                refusal = ResourceExhausted(f"a frame of {frame.oversize} bytes is over ttrpc's {framing.MAX_PAYLOAD}")
                channel.send(messages.encode_error(frame.stream, refusal))
            return
        try:
            envelope = Request.FromString(frame.payload)
        except DecodeError:
            for fd in frame.fds:
                os.close(fd)
            channel.send(messages.encode_error(frame.stream, InvalidArgument("the frame holds no ttrpc request")))
            return
        call = Call(channel, frame, envelope)
        try:
            handler, request = self._find(envelope)
            self.invoke(handler, request, call)
        except IntermodalError as error:
            call.fail(error)
        except Exception as error:
            if self._on_defect is not None:
                self._on_defect(call, error)
            call.fail(error)

    def _find(self, call: Request) -> tuple[Callable[..., Any], Message]:
        methods = self._services.get(call.service)
        if methods is None:
            raise Unimplemented(f"service {call.service} is not served here; served are {', '.join(self._services)}")
        if call.method not in methods:
            raise Unimplemented(f"service {call.service} has no method {call.method}")
        kind, handler = methods[call.method]
        try:
            return handler, kind.FromString(call.payload)
        except DecodeError as error:
            raise InvalidArgument(f"{call.service}/{call.method}: the request is no {kind.DESCRIPTOR.name}") from error

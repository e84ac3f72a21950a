"""A gRPC call: a stream whose request is messages, and whose answer is messages and a status."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError
from intermodal_core.errors import IntermodalError, Internal, InvalidArgument

from intermodal_http2 import status
from intermodal_http2.frames import END_STREAM
from intermodal_http2.messages import ENCODINGS, Messages, prefixed
from intermodal_http2.requests import Requests
from intermodal_http2.stream import Stream

if TYPE_CHECKING:
    from intermodal_http2.connection import Connection
    from intermodal_http2.heads import Head

__all__ = ["Call", "Exchange", "Method", "Methods"]

log = logging.getLogger("intermodal.grpc")

# gRPC's status codes that are not raised as errors of ours.
_CANCELLED, _DEADLINE_EXCEEDED, _UNIMPLEMENTED, _UNAVAILABLE = 1, 4, 12, 14

_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


class Method(NamedTuple):
    """A method: how its messages are read and written, and what does it.

    `implementation(request, call)` is a coroutine function, or where `answers` an async generator function; where
    `requests`, its first argument is an async iterator.
    """

    name: str
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    implementation: Callable[[Any, Any], Any]
    requests: bool
    answers: bool


class Methods(NamedTuple):
    """All that a server's calls have in common.

    `busy` is entered while one runs; `unserved(service, method)` is the sentence for a path that is not in `by_path`;
    `call` makes what a method may ask of its call.
    """

    by_path: dict[bytes, Method]
    busy: Callable[[], AbstractContextManager[None]]
    unserved: Callable[[str, str], str]
    call: Callable[[Exchange], Any]


class Call:
    """What a method may ask of its call."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def metadata(self, name: str) -> str:
        """The first value that the client sent along under the name, or ""."""
        return self._exchange.head.first(name.encode()).decode(errors="replace")

    def metadata_values(self, name: str) -> tuple[str, ...]:
        """Every value, in order."""
        return tuple(value.decode(errors="replace") for value in self._exchange.head.fields.get(name.encode(), ()))

    def binary_metadata(self, name: str) -> tuple[bytes, ...]:
        """Every value under a name that ends in `-bin`, decoded. Raises InvalidArgument for what is not base64."""
        joined = b",".join(self._exchange.head.fields.get(name.encode(), ()))
        try:
            return tuple(
                base64.b64decode(value.strip() + b"=" * (-len(value.strip()) % 4), validate=True)
                for value in joined.split(b",")
                if value.strip()
            )
        except binascii.Error:
            raise InvalidArgument(f"the metadata {name} is not base64") from None

    def send_initial_metadata(self) -> None:
        """Let the client know, before the first answer, that the method has begun."""
        self._exchange.greet()


class Exchange(Stream):
    """One call from its head to its status."""

    __slots__ = ("_begun", "_messages", "_method", "_methods", "_request", "_requests", "_task", "_timer")

    def __init__(self, connection: Connection, id: int, head: Head, methods: Methods) -> None:
        super().__init__(connection, id, head)
        self._methods = methods
        self._method: Method | None = None
        self._messages = Messages(head.first(b"grpc-encoding"))
        self._request: bytes | None = None
        self._requests: Requests | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begun = False  # the answer's first fields are out

    # What arrives.

    def opened(self) -> None:
        """Find the method."""
        head = self.head
        if head.method != b"POST" or not _CONTENT_TYPE.fullmatch(head.first(b"content-type")):
            self.send(ending=self.connection.fields(self.id, status.NOT_GRPC, END_STREAM))
            return
        method = self._method = self._methods.by_path.get(head.path)
        if method is None:
            service, _, name = head.path.decode(errors="replace").removeprefix("/").rpartition("/")
            self.fail(_UNIMPLEMENTED, self._methods.unserved(service, name))
            return
        encoding = head.first(b"grpc-encoding")
        if encoding and encoding not in ENCODINGS:
            known = ", ".join(each.decode() for each in ENCODINGS)
            self.fail(_UNIMPLEMENTED, f"the compression {encoding.decode(errors='replace')} is none of {known}")
            return
        given = head.first(b"grpc-timeout")
        if given:
            found = _TIMEOUT.fullmatch(given)
            if found is None:
                self.fail(Internal.code, f"the grpc-timeout {given.decode(errors='replace')!r} is no time")
                return
            seconds = int(found[1]) * _UNITS[found[2]]
            self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)
        if method.requests:
            self._requests = Requests(self, method)
            self._begin(method, self._requests)

    def received(self, data: bytes) -> None:
        """Collect messages."""
        try:
            messages = self._messages.feed(data)
        except IntermodalError as error:
            self.fail(error.code, str(error))
            return
        if self._requests is not None:
            self._requests.put(messages, len(data))
            return
        self.credit(len(data))
        for message in messages:
            if self._request is not None:
                self.fail(_UNIMPLEMENTED, "the method takes one message, and more were sent")
                return
            self._request = message

    def ended(self) -> None:
        """Begin what needs the whole request."""
        try:
            self._messages.end()
        except IntermodalError as error:
            self.fail(error.code, str(error))
            return
        method = self._method
        if self._requests is not None:
            self._requests.end()
        elif self._request is None:
            self.fail(_UNIMPLEMENTED, "the method takes one message, and none was sent")
        elif method is not None:
            try:
                request = method.decode(self._request)
            except DecodeError:
                self.fail(Internal.code, f"{method.name}: the message is none of the method's type")
                return
            self._request = None
            self._begin(method, request)

    def lost(self) -> None:
        """The client gave up."""
        self._stop()

    # What is answered.

    def greet(self) -> None:
        """Send the fields that precede messages."""
        if not self._begun:
            self._answer()

    def fail(self, code: int, message: str) -> None:
        """End the call with an error; whatever runs for it is cancelled."""
        if not self.gone:
            fields = status.trailers(code, message)
            if not self._begun:
                fields = status.HEADERS + fields
            self._begun = True
            self.send(ending=self.connection.fields(self.id, fields, END_STREAM))
            self._stop()

    def stop(self) -> None:
        """The server ends."""
        self.fail(_UNAVAILABLE, "the daemon is about to end; call again when it is back")

    def _answer(self, data: bytes = b"", last: bool = False) -> None:
        """Send what precedes messages, unless it was, then `data`, and if it is the last, the status OK."""
        if self.gone:
            return  # before a HEADERS frame is made, of which each must be sent
        before = b"" if self._begun else self.connection.fields(self.id, status.HEADERS)
        self._begun = True
        self.send(before, data, self.connection.fields(self.id, status.OK, END_STREAM) if last else b"")

    # What runs.

    def _begin(self, method: Method, request: Any) -> None:
        self.connection.handler_begins()
        self._task = asyncio.get_running_loop().create_task(self._run(method, request))
        self._task.add_done_callback(self._done)

    async def _run(self, method: Method, request: Any) -> None:
        with self._methods.busy():
            try:
                answer = method.implementation(request, self._methods.call(self))
                if method.answers:
                    await self._stream(method, answer)
                else:
                    self._answer(prefixed(method.encode(await answer)), last=True)
                return
            except IntermodalError as error:
                failure = error
            except asyncio.CancelledError:
                self._task = None
                self.fail(_CANCELLED, f"{method.name} was given up")
                raise
            except Exception as error:
                log.exception("%s", method.name)
                failure = Internal(f"{method.name} raised {type(error).__name__}: {error}")
        self._task = None
        self.fail(failure.code, str(failure))

    async def _stream(self, method: Method, answers: Any) -> None:
        async with aclosing(answers):
            async for answer in answers:
                self.connection.gather_turn()
                self._answer(prefixed(method.encode(answer)))
                if self.pending_size:
                    await self.drained()
        self.connection.gather_turn()
        self._answer(last=True)

    def _done(self, _task: asyncio.Task[None]) -> None:
        self._task = None
        self._stop()
        self.connection.handler_ends()

    def _stop(self) -> None:
        """Nothing is waited for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()

    def _expired(self) -> None:
        self.fail(_DEADLINE_EXCEEDED, "the time that the client gave is over")

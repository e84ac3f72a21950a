"""containerd.services.streaming.v1.Streaming: streams between client and daemon that transfers refer to by id."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from intermodal_api.containerd.services import streaming_pb2 as pb
from intermodal_api.containerd.types import transfer_pb2 as types
from intermodal_core.errors import AlreadyExists, Cancelled, InvalidArgument, NotFound
from intermodal_wire.calls import Call, Service

__all__ = ["Stream", "Streaming", "Streams", "packed", "unpacked"]

M = TypeVar("M", bound=Message)

#: Bytes that a client may send before it is told that it may send more.
_WINDOW: Final = 1 << 20
_CHUNK: Final = 32 << 10
_WAITING: Final = 64


def packed(message: Message) -> Any:
    """As clients of containerd expect it: the type URL is the bare name."""
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def unpacked(message: Any, kind: type[M]) -> M | None:
    """The message in it; None where it is another one. Raises InvalidArgument for bytes that are none."""
    if message.type_url.rpartition("/")[2] != kind.DESCRIPTOR.full_name:
        return None
    try:
        return kind.FromString(message.value)
    except Exception as error:
        raise InvalidArgument(f"a message that says it is {message.type_url} is none: {error}") from None


class Stream:
    """One stream. What a client sends waits here; `send` waits while the client does not take it."""

    def __init__(self) -> None:
        self._incoming: asyncio.Queue[Any | None] = asyncio.Queue(_WAITING)
        self.outgoing: asyncio.Queue[Any | None] = asyncio.Queue(_WAITING)
        self.gone = asyncio.Event()

    async def take(self, requests: AsyncIterator[Any]) -> None:
        """Take in what the client sends, to its end."""
        try:
            async for request in requests:
                await self._incoming.put(request)
        finally:
            self.gone.set()
            with contextlib.suppress(asyncio.QueueFull):
                self._incoming.put_nowait(None)

    async def send(self, message: Message) -> None:
        """To the client. Raises Cancelled when it has gone."""
        if self.gone.is_set() and self.outgoing.full():
            raise Cancelled("the client has closed the stream")
        await self.outgoing.put(packed(message))

    async def receive(self) -> Any | None:
        """The client's next message; None at the end."""
        if self.gone.is_set() and self._incoming.empty():
            return None
        return await self._incoming.get()

    async def close(self) -> None:
        """End it, once what was sent has been taken."""
        await self.outgoing.put(None)

    # Bytes, under the flow control that containerd's clients use.

    async def content(self) -> AsyncIterator[bytes]:
        """What the client sends, as it comes."""
        granted = _WINDOW
        await self.send(types.WindowUpdate(update=_WINDOW))
        while (message := await self.receive()) is not None:
            data = unpacked(message, types.Data)
            if data is None:
                raise InvalidArgument(f"a stream of bytes brought {message.type_url}")
            granted -= len(data.data)
            if granted < _WINDOW // 2:
                await self.send(types.WindowUpdate(update=_WINDOW - granted))
                granted = _WINDOW
            yield data.data

    async def write(self, data: bytes, window: int) -> int:
        """Send bytes as the client grants them; what is left of the window. Raises Cancelled when it has gone."""
        while data:
            while window <= 0:
                message = await self.receive()
                if message is None:
                    raise Cancelled("the client has closed the stream")
                update = unpacked(message, types.WindowUpdate)
                window += update.update if update is not None else 0
            piece, data = data[: min(_CHUNK, window)], data[min(_CHUNK, window) :]
            await self.send(types.Data(data=piece))
            window -= len(piece)
        return window


class Streams:
    """The streams that are open, by namespace and id."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Stream] = {}

    def add(self, namespace: str, id: str) -> Stream:
        """A new one. Raises AlreadyExists."""
        if not id:
            raise InvalidArgument("a stream needs an id")
        if (namespace, id) in self._open:
            raise AlreadyExists(f"the stream {id} is open already")
        stream = self._open[namespace, id] = Stream()
        return stream

    def remove(self, namespace: str, id: str) -> None:
        """Its client has gone."""
        del self._open[namespace, id]

    def get(self, namespace: str, id: str) -> Stream:
        """The one that a call names. Raises NotFound."""
        try:
            return self._open[namespace, id]
        except KeyError:
            raise NotFound(f"there is no stream {id!r}: open it first, by the service Streaming") from None


class Streaming(Service):
    """Keeps the streams for whoever refers to them."""

    descriptor = pb.DESCRIPTOR.services_by_name["Streaming"]

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    async def stream(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Stream: the first message names it, and is answered; the rest is between client and transfer."""
        namespace = call.scope.named
        first = await anext(aiter(requests), None)
        init = unpacked(first, pb.StreamInit) if first is not None else None
        if init is None:
            raise InvalidArgument("the first message of a stream must be a StreamInit")
        stream = self._streams.add(namespace, init.id)
        taking = asyncio.create_task(stream.take(requests))
        try:
            yield packed(Empty())
            while True:
                getting = asyncio.create_task(stream.outgoing.get())
                going = asyncio.create_task(stream.gone.wait())
                try:
                    await asyncio.wait([getting, going], return_when=asyncio.FIRST_COMPLETED)
                    if not getting.done() and stream.outgoing.empty():
                        return
                    message = await getting
                finally:
                    getting.cancel()
                    going.cancel()
                if message is None:
                    return
                yield message
        finally:
            self._streams.remove(namespace, init.id)
            stream.gone.set()
            taking.cancel()
            await asyncio.gather(taking, return_exceptions=True)

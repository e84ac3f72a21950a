"""The requests of a call that takes many."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError
from intermodal_core.errors import Internal

if TYPE_CHECKING:
    from intermodal_http2.call import Method
    from intermodal_http2.stream import Stream

__all__ = ["Requests"]


class Requests:
    """The messages of a call that takes many, as an async iterator; what waits in it fills the stream's window."""

    def __init__(self, stream: Stream, method: Method) -> None:
        self._stream = stream
        self._method = method
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, messages: list[bytes], size: int) -> None:
        """Messages that `size` bytes brought; bytes of one that is not complete yet are needed to complete it."""
        self._held += size
        self._waiting.extend(messages)
        self._seen()

    def end(self) -> None:
        """There are no more."""
        self._ended = True
        self._seen()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        message = self._waiting.popleft()
        self._credit(len(message) if self._waiting else self._held)
        try:
            return self._method.decode(message)
        except DecodeError:
            raise Internal(f"{self._method.name}: a message is none of the method's type") from None

    def _seen(self) -> None:
        if not self._waiting:
            self._credit(self._held)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _credit(self, size: int) -> None:
        size = min(size, self._held)
        self._held -= size
        self._stream.credit(size)

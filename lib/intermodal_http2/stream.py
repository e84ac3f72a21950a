"""One stream of a connection: what the application on top sees and overrides."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from intermodal_http2.frames import CANCEL, reset, window_update
from intermodal_http2.settings import STREAM_WINDOW

if TYPE_CHECKING:
    from intermodal_http2.connection import Connection
    from intermodal_http2.heads import Head

__all__ = ["Stream"]


class Stream:
    """A request and its answer. The application derives from it; the connection calls `opened` and what follows.

    Bytes that came in are acknowledged by `credit`, at the latest when the application has used them: until then the peer
    may send no more than the window.
    """

    __slots__ = (
        "_owed",
        "connection",
        "ending",
        "expected",
        "gone",
        "head",
        "id",
        "local_ended",
        "pending",
        "pending_size",
        "receive_window",
        "remote_ended",
        "waiter",
        "window",
    )

    def __init__(self, connection: Connection, id: int, head: Head) -> None:
        self.connection = connection
        self.id = id
        self.head = head
        #: Bytes that we may send, and that the peer may.
        self.window = connection.outflow.initial
        self.receive_window = STREAM_WINDOW
        self._owed = 0
        #: What waits for the peer's windows, and the frames that follow it; kept by `flow.Outflow`.
        self.pending: deque[memoryview] = deque()
        self.pending_size = 0
        self.ending = b""
        self.waiter: asyncio.Future[None] | None = None
        self.expected = head.length
        self.remote_ended = False
        self.local_ended = False
        self.gone = False

    # What the application overrides.

    def opened(self) -> None:
        """The request's head is there."""

    def received(self, data: bytes) -> None:
        """A part of the request's body, never empty."""

    def ended(self) -> None:
        """The request is complete."""

    def lost(self) -> None:
        """The peer reset the stream or the connection is gone: nothing can be answered any more."""

    # What the application calls.

    def send(self, before: bytes = b"", data: bytes = b"", ending: bytes = b"") -> None:
        """Write whole frames, then bytes as DATA when the peer takes them, then frames that end the answer.

        Nothing is written once the stream has gone.
        """
        if not self.gone:
            self.connection.outflow.send(self, before, data, ending)

    async def drained(self) -> None:
        """When little enough waits to be written. To be called by one at a time."""
        await self.connection.outflow.drained(self)

    def credit(self, size: int) -> None:
        """So many bytes of the request were used."""
        self._owed += size
        if self._owed >= STREAM_WINDOW // 4 and not (self.gone or self.remote_ended):
            self.receive_window += self._owed
            self.connection.write(window_update(self.id, self._owed))
            self._owed = 0

    def reset(self, code: int = CANCEL) -> None:
        """End the stream at once, both ways."""
        if not self.gone:
            self.connection.write(reset(self.id, code))
            self.connection.forget(self, expecting=not self.remote_ended)

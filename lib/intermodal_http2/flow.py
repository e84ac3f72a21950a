"""Flow control of what is sent (RFC 9113, section 5.2): the peer's windows, its frame size, and streams that take turns."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from intermodal_http2.frames import DATA, FLOW_CONTROL_ERROR, MAX_WINDOW, ConnectionFault, StreamFault, head
from intermodal_http2.settings import DEFAULT_FRAME, DEFAULT_WINDOW

if TYPE_CHECKING:
    from intermodal_http2.budget import Budget
    from intermodal_http2.link import Link
    from intermodal_http2.stream import Stream

__all__ = ["Outflow"]

#: A stream's turn, and how much goes into one write.
_TURN = 128 << 10
_WRITE = 512 << 10
#: A peer may be so busy as to tell us something after each so many bytes.
_ACKNOWLEDGED = 4096
#: With no more than this waiting a stream may be given the next message.
_LOW_WATER = 256 << 10


class Outflow:
    """What a connection's streams send over `link`; `finished(stream)` is called when an answer is out.

    What is sent lets the peer speak more freely: `budget` is for the frames by which it acknowledges.
    """

    __slots__ = ("_budget", "_finished", "_link", "_turns", "frame_size", "initial", "window")

    def __init__(self, link: Link, finished: Callable[[Stream], None], budget: Budget) -> None:
        self._link = link
        self._finished = finished
        self._budget = budget
        self._turns: deque[Stream] = deque()  # streams with bytes and a window
        self.window = DEFAULT_WINDOW
        self.initial = DEFAULT_WINDOW
        self.frame_size = DEFAULT_FRAME

    def send(self, stream: Stream, before: bytes, data: bytes, ending: bytes) -> None:
        """See Stream.send. What fits goes out in one write."""
        size = len(data)
        if (
            stream.pending
            or size > self.frame_size
            or size > self.window
            or size > stream.window
            or (size and self._link.full)
        ):
            self._queue(stream, before, data, ending)
            return
        if size:
            self.window -= size
            stream.window -= size
            before = b"".join((before, head(size, DATA, 0, stream.id), data, ending))
        elif ending:
            before += ending
        if before:
            self._write(before)
        if ending:
            self._finished(stream)

    async def drained(self, stream: Stream) -> None:
        """See Stream.drained."""
        while stream.pending_size > _LOW_WATER and not stream.gone:
            stream.waiter = asyncio.get_running_loop().create_future()
            try:
                await stream.waiter
            finally:
                stream.waiter = None

    def pump(self) -> None:
        """Write what the windows allow, the streams in turns."""
        frames: list[bytes | memoryview] = []
        written = 0
        done: list[Stream] = []
        while self._turns and self.window > 0 and not self._link.full:
            stream = self._turns.popleft()
            if not stream.pending or stream.window <= 0:
                continue
            written += self._take(stream, frames)
            if not stream.pending:
                if stream.ending:
                    frames.append(stream.ending)
                    done.append(stream)
            elif stream.window > 0:
                self._turns.append(stream)
            if written >= _WRITE:
                self._write(b"".join(frames))
                frames.clear()
                written = 0
        if frames:
            self._write(b"".join(frames))
        for stream in done:
            self._finished(stream)

    def enlarge(self, increment: int) -> None:
        """The connection's window grew. Raises ConnectionFault."""
        if self.window + increment > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the connection's window became too large")
        self.window += increment
        self.pump()

    def enlarge_stream(self, stream: Stream, increment: int) -> None:
        """A stream's window grew, or shrank. Raises StreamFault."""
        if stream.window + increment > MAX_WINDOW:
            raise StreamFault(FLOW_CONTROL_ERROR, "the stream's window became too large")
        waited = stream.window <= 0
        stream.window += increment
        if waited and stream.window > 0 and stream.pending:
            self._turns.append(stream)

    def drop(self, stream: Stream) -> None:
        """Forget what waits; nobody waits for it any more."""
        stream.pending.clear()
        stream.pending_size = 0
        _wake(stream)

    def _queue(self, stream: Stream, before: bytes, data: bytes, ending: bytes) -> None:
        if before:
            self._write(before)
        idle = not stream.pending
        if data:
            stream.pending.append(memoryview(data))
            stream.pending_size += len(data)
        stream.ending = ending
        if idle and stream.window > 0:
            self._turns.append(stream)
        self.pump()

    def _take(self, stream: Stream, frames: list[bytes | memoryview]) -> int:
        """A turn's DATA frames; how many bytes they carry."""
        allowed = turn = min(self.window, stream.window, _TURN)
        pending = stream.pending
        while allowed and pending:
            data = pending[0]
            size = min(len(data), allowed, self.frame_size)
            frames.append(head(size, DATA, 0, stream.id))
            if size == len(data):
                frames.append(data)
                pending.popleft()
            else:
                frames.append(data[:size])
                pending[0] = data[size:]
            allowed -= size
        turn -= allowed
        self.window -= turn
        stream.window -= turn
        stream.pending_size -= turn
        if stream.pending_size <= _LOW_WATER:
            _wake(stream)
        return turn

    def _write(self, data: bytes) -> None:
        self._budget.give(1 + len(data) // _ACKNOWLEDGED)
        self._link.write(data)


def _wake(stream: Stream) -> None:
    if stream.waiter is not None and not stream.waiter.done():
        stream.waiter.set_result(None)

"""One connection: an asyncio protocol that reads frames, keeps the streams, and answers a broken rule by the right code."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from intermodal_http2 import frames, settings
from intermodal_http2.budget import Budget
from intermodal_http2.flow import Outflow
from intermodal_http2.frames import ConnectionFault, StreamFault
from intermodal_http2.headers import Headers
from intermodal_http2.heads import Head
from intermodal_http2.hpack import NO_TABLE
from intermodal_http2.reader import Reader
from intermodal_http2.stream import Stream
from intermodal_http2.streams import Streams

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_LEAVING: Final = b"leaving."


#: What a client may send around a call that is answered: windows of stream and connection, probes of the road.
_FRAMES_OF_A_CALL: Final = 6


class Connection(Reader):
    """Makes a stream of each request by `application(connection, id, head)`; `closed(connection)` is called in the end.

    That is when the transport is gone and nothing runs any more.
    """

    def __init__(
        self, application: Callable[[Connection, int, Head], Stream], closed: Callable[[Connection], None]
    ) -> None:
        super().__init__()
        self._application = application
        self._closed = closed
        self.streams = Streams()
        #: Handlers that run, also those of streams that are gone.
        self.running = 0
        self._lost = False
        self._headers = Headers()
        self._window = settings.CONNECTION_WINDOW  # that the peer may send
        self._leaving = False  # new streams are refused
        self._fields_begin = NO_TABLE
        self._control = Budget(10_000, 1000)
        self._resets = Budget(2000, 200)
        self.outflow = Outflow(self, self._finished, self._control)

    # asyncio's half.

    def resume_writing(self) -> None:
        """The peer reads again."""
        super().resume_writing()
        self.outflow.pump()

    def release(self) -> None:
        """Write what was gathered, and what had to wait behind it."""
        super().release()
        if not self.over:
            self.outflow.pump()

    def connection_lost(self, _error: Exception | None) -> None:
        """End everything."""
        self.over = self._lost = True
        self._lose()
        if not self.running:
            self._closed(self)

    # For streams.

    def fields(self, id: int, block: bytes, flags: int = 0) -> bytes:
        """A HEADERS frame, to be sent, of fields that are written by `hpack.literal`, no more than fits into one frame."""
        if self._fields_begin:
            block, self._fields_begin = self._fields_begin + block, b""
        return frames.frame(frames.HEADERS, frames.END_HEADERS | flags, id, block)

    def forget(self, stream: Stream, *, expecting: bool) -> None:
        """The stream is over; `expecting`: the peer may not know yet."""
        self.streams.close(stream, expecting=expecting)
        self.outflow.drop(stream)
        if self._leaving and not self.streams:
            self.close()

    def handler_begins(self) -> None:
        """Something runs for a stream."""
        self.running += 1

    def handler_ends(self) -> None:
        """It has ended; the last one of a connection that is gone ends that, too."""
        self.running -= 1
        if self._lost and not self.running:
            self._closed(self)

    # For the server.

    def leave(self) -> None:
        """Tell the peer to send no new requests; the connection ends with the last of those that run."""
        self.write(frames.goaway(frames.MAX_WINDOW, frames.NO_ERROR) + frames.frame(frames.PING, 0, 0, _LEAVING))

    # Frames.

    def frame(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        """Act on a frame; a stream that breaks a rule is reset."""
        block = self._headers.stream
        if block and (kind != frames.CONTINUATION or id != block):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a header block was not continued")
        try:
            if kind < len(self._KINDS):
                self._KINDS[kind](self, flags, id, payload)
            else:
                self._spend(self._control)  # of an extension; to be ignored
        except StreamFault as fault:
            self._fault(id, fault)

    def _data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < 0:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self._window <= settings.CONNECTION_WINDOW // 2:
            self.write(frames.window_update(0, settings.CONNECTION_WINDOW - self._window))
            self._window = settings.CONNECTION_WINDOW
        stream = self.streams.find(id)
        if stream is None:
            return
        if stream.remote_ended:
            raise StreamFault(frames.STREAM_CLOSED, "DATA after the end")
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(frames.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        if flags & frames.PADDED:
            payload = frames.unpadded(payload)
            stream.credit(size - len(payload))
        if stream.expected is not None:
            stream.expected -= len(payload)
            if stream.expected < 0:
                raise StreamFault(frames.PROTOCOL_ERROR, "more DATA than the content-length")
        stream.remote_ended = bool(flags & frames.END_STREAM)
        if payload:
            stream.received(payload)
        elif not stream.remote_ended:
            self._spend(self._control)
        if stream.remote_ended:
            self._ended(stream)

    def _header_block(self, flags: int, id: int, payload: bytes) -> None:
        if not id & 1:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"a client cannot open stream {id}")
        block = self._headers.begin(id, flags, payload)
        if block is not None:
            self._block(id, block)

    def _continuation(self, flags: int, id: int, payload: bytes) -> None:
        block = self._headers.go_on(flags, payload)
        if block is not None:
            self._block(id, block)

    def _block(self, id: int, block: bytes) -> None:
        """A whole header block: a request's head, or its trailers."""
        end = self._headers.end_stream
        if id <= self.streams.last:
            self._trailers(id, block, end)
            return
        self.streams.last = id
        head = self._headers.head(block)
        if self._leaving or max(len(self.streams), self.running) >= settings.STREAMS:
            raise StreamFault(frames.REFUSED_STREAM, "no more calls now")
        stream = self.streams[id] = self._application(self, id, head)
        stream.remote_ended = end
        stream.opened()
        if end:
            self._ended(stream)

    def _trailers(self, id: int, block: bytes, end: bool) -> None:
        stream = self.streams.find(id)
        self._headers.trailers(block)
        if stream is not None:
            if stream.remote_ended:
                raise StreamFault(frames.STREAM_CLOSED, "HEADERS after the end")
            if not end:
                raise StreamFault(frames.PROTOCOL_ERROR, "a second head")
            self._ended(stream)

    def _ended(self, stream: Stream) -> None:
        stream.remote_ended = True
        if stream.gone:
            return
        if stream.expected:
            raise StreamFault(frames.PROTOCOL_ERROR, "less DATA than the content-length")
        stream.ended()

    def _priority(self, _flags: int, id: int, payload: bytes) -> None:
        if not id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PRIORITY without a stream")
        self._spend(self._control)
        if len(payload) != 5:
            raise StreamFault(frames.FRAME_SIZE_ERROR, "PRIORITY is five bytes")
        if int.from_bytes(payload[:4]) & 0x7FFFFFFF == id:
            raise StreamFault(frames.PROTOCOL_ERROR, "a stream that depends on itself")

    def _rst_stream(self, _flags: int, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "RST_STREAM is four bytes")
        self._spend(self._resets)
        stream = self.streams.opened(id)
        if stream is not None:
            self.forget(stream, expecting=False)
            stream.lost()

    def _settings(self, flags: int, id: int, payload: bytes) -> None:
        if id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "SETTINGS of a stream")
        self._spend(self._control)
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS is empty")
            return
        outflow = self.outflow
        for identifier, value in settings.read(payload):
            if identifier == settings.MAX_FRAME_SIZE:
                outflow.frame_size = min(value, settings.LARGEST_FRAME)
            elif identifier == settings.INITIAL_WINDOW_SIZE:
                grown, outflow.initial = value - outflow.initial, value
                try:
                    for stream in self.streams.values():
                        outflow.enlarge_stream(stream, grown)
                except StreamFault as fault:
                    raise ConnectionFault(fault.code, str(fault)) from None
        self.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        outflow.pump()

    def _push_promise(self, _flags: int, _id: int, _payload: bytes) -> None:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "a client cannot push")

    def _ping(self, flags: int, id: int, payload: bytes) -> None:
        if id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "PING is eight bytes")
        self._spend(self._control)
        if not flags & frames.ACK:
            self.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _LEAVING and not self._leaving:
            self._leaving = True
            self.write(frames.goaway(self.streams.last, frames.NO_ERROR))
            if not self.streams:
                self.close()

    def _goaway(self, _flags: int, id: int, payload: bytes) -> None:
        if id:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "GOAWAY is eight bytes or more")
        self._spend(self._control)  # nothing to do: it is the client that opens streams

    def _window_update(self, _flags: int, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE is four bytes")
        self._spend(self._control)
        increment = int.from_bytes(payload) & 0x7FFFFFFF
        if not id:
            if not increment:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.outflow.enlarge(increment)
            return
        stream = self.streams.opened(id)
        if stream is None:
            return
        if not increment:
            raise StreamFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
        self.outflow.enlarge_stream(stream, increment)
        self.outflow.pump()

    # What follows.

    def _spend(self, budget: Budget) -> None:
        if not budget.spend():
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    def _finished(self, stream: Stream) -> None:
        """The answer is out."""
        stream.local_ended = True
        self._resets.give(1)
        self._control.give(_FRAMES_OF_A_CALL)
        if not stream.remote_ended:
            self.write(frames.reset(stream.id, frames.NO_ERROR))  # the rest of the request is not wanted
        self.forget(stream, expecting=not stream.remote_ended)

    def _fault(self, id: int, fault: StreamFault) -> None:
        if fault.code != frames.REFUSED_STREAM:
            self._spend(self._resets)
        self.write(frames.reset(id, fault.code))
        stream = self.streams.get(id)
        if stream is not None:
            self.forget(stream, expecting=not stream.remote_ended)
            stream.lost()
        else:
            self.streams.refuse(id)

    def fail(self, fault: ConnectionFault) -> None:
        """Give the connection up."""
        _log.warning("a connection is given up: %s", fault)
        self.write(frames.goaway(self.streams.last, fault.code, str(fault)))
        self._lose()
        self.close()

    def _lose(self) -> None:
        streams = list(self.streams.values())
        self.streams.clear()
        for stream in streams:
            stream.gone = True
            self.outflow.drop(stream)
            stream.lost()

    _KINDS = (
        _data,
        _header_block,
        _priority,
        _rst_stream,
        _settings,
        _push_promise,
        _ping,
        _goaway,
        _window_update,
        _continuation,
    )

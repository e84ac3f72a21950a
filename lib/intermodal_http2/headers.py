"""Header blocks on their way in: put together from frames, decoded, and made heads of requests."""

from __future__ import annotations

from typing import Final

from intermodal_http2 import heads
from intermodal_http2.frames import (
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    PADDED,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
    unpadded,
)
from intermodal_http2.heads import Head
from intermodal_http2.hpack import Decoder, Field
from intermodal_http2.settings import HEADER_LIMIT

__all__ = ["Headers"]

#: Frames of one header block.
_FRAGMENTS: Final = 128
#: Heads that are kept by the bytes that they came in.
_KNOWN: Final = 64


class Headers:
    """The blocks of one connection. `stream` is that of a block that is not whole yet, or 0.

    A client says the same again and again, in the same bytes once the tables have it: while the dynamic table stays as
    it is, the same bytes are the same head, and are not decoded twice.
    """

    __slots__ = ("_block", "_decoder", "_fragments", "_known", "end_stream", "stream")

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, Head] = {}
        self._block = b""
        self._fragments = 0
        self.stream = 0
        #: Whether the latest block was the last of its stream.
        self.end_stream = False

    def begin(self, stream: int, flags: int, payload: bytes) -> bytes | None:
        """A HEADERS frame: its block, if it is whole. Raises ConnectionFault."""
        if flags & PADDED:
            payload = unpadded(payload)
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS has no room for its priority")
            if int.from_bytes(payload[:4]) & 0x7FFFFFFF == stream:
                raise ConnectionFault(PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        self.end_stream = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            return payload
        self.stream, self._block, self._fragments = stream, payload, 1
        return None

    def go_on(self, flags: int, payload: bytes) -> bytes | None:
        """A CONTINUATION frame: the block, if it is whole now. Raises ConnectionFault."""
        if not self.stream:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        self._fragments += 1
        if len(self._block) > HEADER_LIMIT or self._fragments > _FRAGMENTS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header block without end")
        if not flags & END_HEADERS:
            return None
        block, self._block, self.stream = self._block, b"", 0
        return block

    def head(self, block: bytes) -> Head:
        """A request's head. Raises ConnectionFault and StreamFault."""
        head = self._known.get(block)
        if head is None:
            version = self._decoder.version
            head = Head(self._decode(block))
            if self._decoder.version == version:
                if len(self._known) == _KNOWN:
                    self._known.clear()
                self._known[block] = head
        return head

    def trailers(self, block: bytes) -> None:
        """Trailing fields, of which gRPC's clients send none; they are checked. Raises ConnectionFault and StreamFault."""
        heads.check_trailers(self._decode(block))

    def _decode(self, block: bytes) -> list[Field]:
        version = self._decoder.version
        fields = self._decoder.decode(block, HEADER_LIMIT)
        if self._decoder.version != version:
            self._known.clear()
        if fields is None:
            raise StreamFault(ENHANCE_YOUR_CALM, f"header fields of more than {HEADER_LIMIT} bytes")
        return fields

"""gRPC's messages in the bytes of a stream (gRPC over HTTP/2, "Length-Prefixed-Message")."""

from __future__ import annotations

import struct
from typing import Final

from intermodal_core.errors import Internal, ResourceExhausted, Unimplemented

__all__ = ["ENCODINGS", "LIMIT", "Messages", "prefixed"]

#: Of a message, both ways, as it is when it is not compressed; gRPC's own default is 4 MiB.
LIMIT: Final = 16 << 20
#: Compressions that a request may have.
ENCODINGS: Final = (b"identity", b"gzip", b"deflate")

_PREFIX = struct.Struct(">?L")


def prefixed(message: bytes) -> bytes:
    """A message as it is sent. Raises ResourceExhausted over the limit."""
    if len(message) > LIMIT:
        raise ResourceExhausted(f"the answer of {len(message)} bytes is over the {LIMIT} that are sent")
    return _PREFIX.pack(False, len(message)) + message


class Messages:
    """Puts a stream's messages together; `encoding` is the request's grpc-encoding."""

    __slots__ = ("_encoding", "_rest")

    def __init__(self, encoding: bytes) -> None:
        self._encoding = encoding
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete with these bytes. Raises ResourceExhausted, Unimplemented, Internal."""
        rest = self._rest
        if not rest and len(data) >= 5 and data[0] == 0 and int.from_bytes(data[1:5]) == len(data) - 5 <= LIMIT:
            return [data[5:]]
        rest += data
        found = []
        at = 0
        while len(rest) - at >= 5:
            size = int.from_bytes(rest[at + 1 : at + 5])
            if size > LIMIT:
                raise ResourceExhausted(f"a message of {size} bytes is over the {LIMIT} that are taken")
            end = at + 5 + size
            if len(rest) < end:
                break
            with memoryview(rest) as view:
                message = bytes(view[at + 5 : end])
            if rest[at]:
                message = self._decompress(rest[at], message)
            found.append(message)
            at = end
        del rest[:at]
        return found

    def end(self) -> None:
        """No more bytes come. Raises Internal when a message was cut off."""
        if self._rest:
            raise Internal("the request ends within a message")

    def _decompress(self, flag: int, message: bytes) -> bytes:
        if flag != 1 or self._encoding in (b"", b"identity"):
            raise Internal("a message has the flag of a compressed one, and the request names no compression")
        if self._encoding not in ENCODINGS:
            raise Unimplemented(f"the compression {self._encoding.decode(errors='replace')} is not known here")
        import zlib  # few compress on a local socket

        inflater = zlib.decompressobj(31 if self._encoding == b"gzip" else 15)
        try:
            plain = inflater.decompress(message, LIMIT + 1)
        except zlib.error as error:
            raise Internal(f"a message cannot be decompressed: {error}") from None
        if len(plain) > LIMIT:
            raise ResourceExhausted(f"a message is over the {LIMIT} bytes that are taken, decompressed")
        if not inflater.eof:
            raise Internal("a compressed message is cut off")
        return plain

"""The frames of HTTP/2 (RFC 9113, sections 4, 6 and 7): layout, types, flags, error codes, and the two kinds of fault."""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "ACK",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "ENHANCE_YOUR_CALM",
    "FLOW_CONTROL_ERROR",
    "FRAME_SIZE_ERROR",
    "GOAWAY",
    "HEADERS",
    "INTERNAL_ERROR",
    "MAX_WINDOW",
    "NO_ERROR",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PROTOCOL_ERROR",
    "PUSH_PROMISE",
    "REFUSED_STREAM",
    "RST_STREAM",
    "SETTINGS",
    "STREAM_CLOSED",
    "WINDOW_UPDATE",
    "ConnectionFault",
    "StreamFault",
    "frame",
    "goaway",
    "head",
    "reset",
    "unpadded",
    "window_update",
]

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types.
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20

# Error codes.
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
ENHANCE_YOUR_CALM: Final = 0xB

#: No window may be larger.
MAX_WINDOW: Final = (1 << 31) - 1

_HEAD = struct.Struct(">BHBBL")
_WORD = struct.Struct(">L")
_WORDS = struct.Struct(">LL")


class ConnectionFault(Exception):
    """The peer broke a rule in a way that the connection cannot survive: it is told by GOAWAY with `code`."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class StreamFault(Exception):
    """The peer broke a rule on one stream, which is reset with `code`; the connection goes on."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return _HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(len(payload), kind, flags, stream) + payload


def reset(stream: int, code: int) -> bytes:
    """A RST_STREAM."""
    return frame(RST_STREAM, 0, stream, _WORD.pack(code))


def goaway(last: int, code: int, message: str = "") -> bytes:
    """A GOAWAY: streams up to `last` were or will be answered."""
    return frame(GOAWAY, 0, 0, _WORDS.pack(last, code) + message.encode()[:200])


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _WORD.pack(increment))


def unpadded(payload: bytes) -> bytes:
    """The payload of a frame that has the flag PADDED, without length and padding. Raises ConnectionFault."""
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame has no room for the padding's length")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding is as long as the frame or longer")
    return payload[1 : len(payload) - padding]

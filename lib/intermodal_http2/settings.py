"""SETTINGS (RFC 9113, section 6.5): what we say, and what the peer may say."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from intermodal_http2.frames import (
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    MAX_WINDOW,
    PROTOCOL_ERROR,
    SETTINGS,
    ConnectionFault,
    frame,
)

__all__ = [
    "CONNECTION_WINDOW",
    "DEFAULT_FRAME",
    "DEFAULT_WINDOW",
    "HEADER_LIMIT",
    "INITIAL_WINDOW_SIZE",
    "LARGEST_FRAME",
    "MAX_FRAME_SIZE",
    "OUR_FRAME",
    "OUR_SETTINGS",
    "STREAMS",
    "STREAM_WINDOW",
    "read",
]

# Identifiers.
_ENABLE_PUSH: Final = 2
_MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
_MAX_HEADER_LIST_SIZE: Final = 6

#: What holds until SETTINGS say otherwise.
DEFAULT_WINDOW: Final = 65535
DEFAULT_FRAME: Final = 16384

#: Calls that a connection may have open, or that still run though it gave them up.
STREAMS: Final = 10_000
#: Four of the largest chunks in which clients write content.
STREAM_WINDOW: Final = 4 << 20
CONNECTION_WINDOW: Final = 16 << 20
OUR_FRAME: Final = 64 << 10
#: Of what is sent, though a peer may take larger ones: no single write is much more than what is let wait.
LARGEST_FRAME: Final = 256 << 10
#: Of a request's fields, reckoned as section 6.5.2 does; a header block may take as much on the wire.
HEADER_LIMIT: Final = 64 << 10

_PAIR = struct.Struct(">HL")

OUR_SETTINGS: Final = frame(
    SETTINGS,
    0,
    0,
    b"".join(
        _PAIR.pack(*pair)
        for pair in (
            (_MAX_CONCURRENT_STREAMS, STREAMS),
            (INITIAL_WINDOW_SIZE, STREAM_WINDOW),
            (MAX_FRAME_SIZE, OUR_FRAME),
            (_MAX_HEADER_LIST_SIZE, HEADER_LIMIT),
        )
    ),
)


def read(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings of a frame, in order, those that are unknown too. Raises ConnectionFault for a value that cannot be."""
    if len(payload) % _PAIR.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes are not whole")
    for identifier, value in _PAIR.iter_unpack(payload):
        if identifier == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, f"a window of {value} bytes is too large")
        if (identifier == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value < 1 << 24) or (
            identifier == _ENABLE_PUSH and value > 1
        ):
            raise ConnectionFault(PROTOCOL_ERROR, f"setting {identifier} cannot be {value}")
        yield identifier, value

"""ttrpc's frames: a pure codec without I/O.

A frame is a header of ten bytes (payload length, stream id, type, flags; big endian) and a payload of at most 4 MiB.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["DATA", "HEADER_SIZE", "MAX_PAYLOAD", "REQUEST", "RESPONSE", "Decoder", "Frame", "encode"]

REQUEST, RESPONSE, DATA = 1, 2, 3
MAX_PAYLOAD = 4 << 20

_HEADER = struct.Struct(">IIBB")
HEADER_SIZE = _HEADER.size


class Frame(NamedTuple):
    """One frame as it arrived.

    `fds` are the descriptors that came with it, owned by whoever takes the frame. `oversize` is the length that a
    frame over the limit announced; its payload is empty, since it is skipped and never held.
    """

    stream: int
    kind: int
    flags: int
    payload: bytes
    fds: tuple[int, ...] = ()
    oversize: int = 0


def encode(stream: int, kind: int, payload: bytes, flags: int = 0) -> bytes:
    """The frame's bytes. Raises ValueError for a payload over the limit."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a ttrpc payload of {len(payload)} bytes is over the limit of {MAX_PAYLOAD}")
    return _HEADER.pack(len(payload), stream, kind, flags) + payload


class Decoder:
    """Cuts a byte stream into frames; any division of the stream into chunks gives the same frames.

    Descriptors belong to the last frame that begins in the chunk they came with: the kernel ends a read after the
    write that carried descriptors, and a sender writes such a frame on its own.
    """

    __slots__ = ("_buffer", "_fds", "_skip")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._fds: tuple[int, ...] = ()
        self._skip = 0

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """All frames that `data` completes, in order."""
        frames: list[Frame] = []
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        buffer = self._buffer
        buffer += data
        position, end = 0, len(buffer)
        while end - position >= HEADER_SIZE:
            length, stream, kind, flags = _HEADER.unpack_from(buffer, position)
            if length > MAX_PAYLOAD:
                frames.append(Frame(stream, kind, flags, b"", self._take(), length))
                position += HEADER_SIZE
                dropped = min(length, end - position)
                self._skip = length - dropped
                position += dropped
                continue
            following = position + HEADER_SIZE + length
            if following > end:
                break
            frames.append(Frame(stream, kind, flags, bytes(buffer[position + HEADER_SIZE : following]), self._take()))
            position = following
        del buffer[:position]
        if fds:
            if frames and not buffer:
                frames[-1] = frames[-1]._replace(fds=frames[-1].fds + tuple(fds))
            else:
                self._fds += tuple(fds)
        return frames

    def pending_fds(self) -> tuple[int, ...]:
        """Descriptors of a frame that is not complete; the caller closes them when the stream ends."""
        return self._take()

    def _take(self) -> tuple[int, ...]:
        fds, self._fds = self._fds, ()
        return fds

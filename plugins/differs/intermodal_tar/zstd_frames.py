"""Where zstd frames end, from headers alone (RFC 8878): the library's stream reader does not tell a truncated stream."""

from __future__ import annotations

from typing import Final

__all__ = ["Frames"]

_MAGIC: Final = 0xFD2FB528
_SKIPPABLE: Final = 0x184D2A50
_DICTIONARY_BYTES: Final = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES: Final = (0, 2, 4, 8)
_RLE: Final = 1
_RESERVED: Final = 3


class Frames:
    """Follows a compressed stream piece by piece; `complete` tells whether it ended where a frame ends."""

    def __init__(self) -> None:
        self._skip = 0  # bytes of no interest that come first
        self._rest = b""
        self._in_frame = False
        self._checksum = 0

    @property
    def complete(self) -> bool:
        """Whether all that was fed so far is whole frames."""
        return not (self._skip or self._rest or self._in_frame)

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises ValueError for what is no frame."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = self._skip
        end = len(data)
        while at < end:
            step = self._block(data, at) if self._in_frame else self._header(data, at)
            if not step:
                self._rest = data[at:]
                self._skip = 0
                return
            at += step
        self._skip = at - end

    def _block(self, data: bytes, at: int) -> int:
        """The length of the block at `at`, with the frame's checksum after the last one; 0 where more is needed."""
        if len(data) - at < 3:
            return 0
        header = int.from_bytes(data[at : at + 3], "little")
        kind = header >> 1 & 3
        if kind == _RESERVED:
            raise ValueError("a zstd block of a reserved type")
        length = 3 + (1 if kind == _RLE else header >> 3)
        if header & 1:
            self._in_frame = False
            length += self._checksum
        return length

    def _header(self, data: bytes, at: int) -> int:
        """The length of the frame's header, or of a whole skippable frame; 0 where more is needed."""
        if len(data) - at < 8:
            return 0
        magic = int.from_bytes(data[at : at + 4], "little")
        if magic & 0xFFFFFFF0 == _SKIPPABLE:
            return 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if magic != _MAGIC:
            raise ValueError("bytes after the last zstd frame")
        descriptor = data[at + 4]
        single_segment = descriptor >> 5 & 1
        content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single_segment
        self._checksum = 4 if descriptor & 4 else 0
        self._in_frame = True
        return 5 + (1 - single_segment) + _DICTIONARY_BYTES[descriptor & 3] + content_size

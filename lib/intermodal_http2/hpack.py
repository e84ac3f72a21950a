"""Header compression (RFC 7541): reading with the dynamic table and Huffman codes, and writing with neither.

What a server of gRPC answers is the same few bytes again and again, so its fields are written as literals that no table
takes up; the first block says so with a table size of nought (`NO_TABLE`), whatever size the peer allows.
"""

from __future__ import annotations

from typing import Final

from intermodal_http2 import huffman
from intermodal_http2.frames import COMPRESSION_ERROR, ConnectionFault

__all__ = ["NO_TABLE", "OVERHEAD", "STATUS_200", "TABLE_SIZE", "Decoder", "Field", "literal"]

Field = tuple[bytes, bytes]

#: What a table may take: the protocol's default, which we leave as it is.
TABLE_SIZE: Final = 4096
#: What an entry is reckoned to take beside its bytes.
OVERHEAD: Final = 32
NO_TABLE: Final = b"\x20"
STATUS_200: Final = b"\x88"

#: Appendix A.
_ENTRIES: Final = (
    ":authority|:method=GET|:method=POST|:path=/|:path=/index.html|:scheme=http|:scheme=https|:status=200|:status=204"
    "|:status=206|:status=304|:status=400|:status=404|:status=500|accept-charset|accept-encoding=gzip, deflate"
    "|accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control"
    "|content-disposition|content-encoding|content-language|content-length|content-location|content-range"
    "|content-type|cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range"
    "|if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range"
    "|referer|refresh|retry-after|server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary"
    "|via|www-authenticate"
)
_STATIC: Final[tuple[Field, ...]] = tuple(
    (name.encode(), value.encode()) for name, _, value in (entry.partition("=") for entry in _ENTRIES.split("|"))
)


class Decoder:
    """Reads the header blocks of one connection, in their order.

    `version` changes with the table: while it stays, the same block means the same fields.
    """

    __slots__ = ("_entries", "_limit", "_size", "version")

    def __init__(self) -> None:
        self._entries: list[Field] = []  # the newest is the last
        self._size = 0
        self._limit = TABLE_SIZE
        self.version = 0

    def decode(self, block: bytes, limit: int) -> list[Field] | None:
        """The block's fields; None when they would take more than `limit` (RFC 9113, 6.5.2), with the table kept right.

        Raises ConnectionFault (COMPRESSION_ERROR): what follows could not be read either.
        """
        fields: list[Field] = []
        size = at = 0
        while at < len(block):
            byte = block[at]
            if byte & 0x80:
                index, at = _integer(block, at, 0x7F)
                field = self._field(index)
            elif byte & 0x40:
                field, at = self._literal(block, at, 0x3F)
                self._add(field)
            elif byte & 0x20:
                if fields or size:
                    raise _fault("a table size update follows a field")
                wanted, at = _integer(block, at, 0x1F)
                if wanted > TABLE_SIZE:
                    raise _fault(f"a table of {wanted} bytes is over the {TABLE_SIZE} that are allowed")
                self._limit = wanted
                self._evict(0)
                self.version += 1
                continue
            else:
                field, at = self._literal(block, at, 0x0F)
            size += len(field[0]) + len(field[1]) + OVERHEAD
            if size <= limit:
                fields.append(field)
        return fields if size <= limit else None

    def _field(self, index: int) -> Field:
        if 0 < index <= len(_STATIC):
            return _STATIC[index - 1]
        place = index - len(_STATIC)
        if index == 0 or place > len(self._entries):
            raise _fault(f"there is no entry {index} in the tables")
        return self._entries[-place]

    def _literal(self, block: bytes, at: int, mask: int) -> tuple[Field, int]:
        index, at = _integer(block, at, mask)
        if index:
            name = self._field(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        return (name, value), at

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._evict(size)
        self.version += 1
        if size <= self._limit:
            self._entries.append(field)
            self._size += size

    def _evict(self, room: int) -> None:
        """Make room; an entry larger than the table empties it."""
        gone = 0
        while self._size + room > self._limit and gone < len(self._entries):
            name, value = self._entries[gone]
            self._size -= len(name) + len(value) + OVERHEAD
            gone += 1
        if gone:
            del self._entries[:gone]
            self.version += 1


def literal(name: bytes, value: bytes) -> bytes:
    """A field that no table takes up."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    if number < 0x7F:
        return bytes((number,))
    written = bytearray((0x7F,))
    number -= 0x7F
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """A number with a prefix of the bits of `mask`, and where the next thing begins."""
    number = block[at] & mask
    at += 1
    if number < mask:
        return number, at
    for shift in (0, 7, 14, 21):
        if at >= len(block):
            break
        byte = block[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise _fault("a number is cut off, or larger than anything that is counted here")


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    if at >= len(block):
        raise _fault("a string is missing")
    packed = block[at] & 0x80
    length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise _fault("a string is cut off")
    data = block[at:end]
    if packed:
        try:
            data = huffman.decode(data)
        except ValueError as error:
            raise _fault(str(error)) from None
    return data, end


def _fault(message: str) -> ConnectionFault:
    return ConnectionFault(COMPRESSION_ERROR, message)

"""What tar headers hold besides fixed fields: numbers of every form, PAX records, sparse maps, extended attributes.

Everything here raises ValueError, with words for a message, for what is malformed.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["Records", "octal", "parse_records", "sparse_map", "time_ns", "xattrs_of"]

Records = dict[bytes, bytes]

_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_SPARSE_PAIR: Final = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


def octal(field: bytes) -> int:
    """A header's number: octal digits amid spaces and NULs (none: 0), or GNU's base 256, which may be negative."""
    first = field[0]
    if first & 0x80:
        # 0x80 begins a positive number, 0xff a negative one in two's complement, whose sign is the bit after the mark.
        if first & 0x40:
            return int.from_bytes(field, "big", signed=True)
        return int.from_bytes(bytes([first & 0x7F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise ValueError(f"{field!r} is no octal number")
    return int(digits, 8) if digits else 0


def parse_records(body: bytes) -> Records:
    """The records of a PAX extended header: `LENGTH KEY=VALUE` and a newline each, the length counting all of it.

    The repeated pairs of GNU sparse format 0.0 are joined into one `GNU.sparse.map`, as format 0.1 has it.
    """
    records: Records = {}
    pairs: list[bytes] = []
    at, end = 0, len(body)
    while at < end:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space]
        if space < 0 or not digits.isdigit():
            if not body[at:].strip(b"\0"):
                break  # some writers pad with NULs
            raise ValueError("a PAX record without a length")
        stop = at + int(digits)
        equals = body.find(b"=", space, stop)
        if stop > end or equals < 0 or body[stop - 1] != 10:
            raise ValueError("a PAX record whose length is wrong")
        key = body[space + 1 : equals]
        value = body[equals + 1 : stop - 1]
        if key in _SPARSE_PAIR:
            if key != _SPARSE_PAIR[len(pairs) % 2]:
                raise ValueError("a sparse map out of order")
            pairs.append(value)
        else:
            records[key] = value
        at = stop
    if pairs:
        records[b"GNU.sparse.map"] = b",".join(pairs)
    return records


def time_ns(text: bytes) -> int:
    """A PAX time, decimal seconds since the epoch with any fraction, in ns rounded down as the kernel does."""
    whole, _, fraction = text.partition(b".")
    negative = whole.startswith(b"-")
    whole = whole.removeprefix(b"-")
    if not whole.isdigit() or (fraction and not fraction.isdigit()) or len(whole) > 18:
        raise ValueError(f"{text[:40]!r} is no time")
    nanoseconds = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    if negative:
        # Towards the past, so that what has more digits than ns stays in its ns.
        return -nanoseconds - bool(fraction[9:].strip(b"0"))
    return nanoseconds


def sparse_map(numbers: list[int], size: int, data_size: int) -> list[tuple[int, int]]:
    """Pairs of (offset, length) from `numbers`, checked: in order, apart, within `size`, together `data_size`."""
    if len(numbers) % 2:
        raise ValueError("half a pair in a sparse map")
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    end = total = 0
    for offset, length in pairs:
        if offset < end or length < 0:
            raise ValueError("a sparse map whose pieces overlap")
        end = offset + length
        total += length
    if end > size or total != data_size:
        raise ValueError(f"a sparse map of {total} bytes up to {end}, for {data_size} bytes of a file of {size}")
    return [pair for pair in pairs if pair[1]]


def xattrs_of(records: Records) -> dict[bytes, bytes] | None:
    """The extended attributes in PAX records; star's form wins where both are given."""
    found: dict[bytes, bytes] | None = None
    for key, value in records.items():
        if key.startswith(_SCHILY):
            found = found or {}
            found[key[len(_SCHILY) :]] = value
        elif key.startswith(_LIBARCHIVE):
            found = found or {}
            name = unquote_to_bytes(key[len(_LIBARCHIVE) :])
            found.setdefault(name, b64decode(value + b"=" * (-len(value) % 4)))
    return found
